//! Bodies of answers: those of servers, and Mayfly's own words.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use hyper::{
    Response, StatusCode,
    body::{Body, Frame, Incoming, SizeHint},
    header::{CONTENT_TYPE, HeaderValue},
};

use super::body::{Answer, BodyError};

/// The body of an answer.
pub(super) enum Said {
    /// The server's, as it comes: no value can be in it.
    Plain(Incoming),
    /// The server's, without values.
    Guarded(Box<Answer>),
    /// Mayfly's.
    Words(Option<Bytes>),
}

/// An answer of Mayfly's own.
pub(super) fn said(status: StatusCode, words: &str) -> Response<Said> {
    let words = Bytes::from(format!("mayfly: {words}\n"));
    let mut answer = Response::new(Said::Words(Some(words)));
    *answer.status_mut() = status;
    let text = HeaderValue::from_static("text/plain; charset=utf-8");
    answer.headers_mut().insert(CONTENT_TYPE, text);
    // Tells it apart from an answer of the server.
    answer
        .headers_mut()
        .insert("x-mayfly-egress", HeaderValue::from_static("refused"));
    answer
}

impl Body for Said {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Plain(body) => Pin::new(body).poll_frame(context).map_err(Into::into),
            Self::Guarded(body) => Pin::new(body.as_mut()).poll_frame(context),
            Self::Words(words) => Poll::Ready(words.take().map(|words| Ok(Frame::data(words)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Plain(body) => body.is_end_stream(),
            Self::Guarded(body) => body.is_end_stream(),
            Self::Words(words) => words.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Plain(body) => body.size_hint(),
            Self::Guarded(body) => body.size_hint(),
            Self::Words(words) => {
                SizeHint::with_exact(words.as_ref().map_or(0, |w| w.len() as u64))
            }
        }
    }
}
