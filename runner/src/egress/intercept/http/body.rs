//! Bodies on their way: what the guest sends is searched before it leaves, and what the server answers
//! before the guest sees it. Nothing is collected; each chunk goes on when it was looked at.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use hyper::{
    body::{Body, Frame, Incoming, SizeHint},
    header::HeaderMap,
};

use super::{
    super::{echo::Guard, judge::Note, leak::Scanner},
    Session,
    inflate::{Inflate, InflateError},
};

/// Why a body ends early.
pub(super) type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// What the guest sends.
pub(super) struct Outgoing {
    inner: Incoming,
    session: Arc<Session>,
    scanner: Scanner,
    inflate: Option<Inflate>,
    failed: bool,
}

impl Outgoing {
    /// `inflate` decodes the body for the search.
    pub(super) fn new(inner: Incoming, session: &Arc<Session>, inflate: Option<Inflate>) -> Self {
        Self {
            inner,
            session: Arc::clone(session),
            scanner: session.scanner(),
            inflate,
            failed: false,
        }
    }

    fn look(&mut self, bytes: &[u8]) -> Result<(), BodyError> {
        let found = self.scanner.scan(bytes).map_err(InflateError::Leak);
        let inside = match (&found, &mut self.inflate) {
            (Ok(()), Some(inflate)) => inflate.push(bytes),
            _ => Ok(()),
        };
        found.and(inside).map_err(|why| self.stop(why))
    }

    fn stop(&mut self, why: InflateError) -> BodyError {
        self.failed = true;
        match why {
            InflateError::Leak(leak) => self.session.leaks(leak.clone()),
            other => self.session.stops(other.to_string()),
        }
        "the request was stopped".into()
    }

    fn frame(&mut self, frame: Frame<Bytes>) -> Result<Frame<Bytes>, BodyError> {
        if let Some(data) = frame.data_ref() {
            self.look(data)?;
        } else if let Some(trailers) = frame.trailers_ref() {
            let scanned = self.session.scan_headers(trailers);
            scanned.map_err(|leak| self.stop(InflateError::Leak(leak)))?;
        }
        Ok(frame)
    }
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.failed {
            return Poll::Ready(None);
        }
        let next = ready!(Pin::new(&mut self.inner).poll_frame(context));
        Poll::Ready(next.map(|frame| self.frame(frame?)))
    }

    fn is_end_stream(&self) -> bool {
        !self.failed && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// What the server answers.
pub(super) struct Answer {
    inner: Incoming,
    session: Arc<Session>,
    guard: Guard,
    inflate: Option<Inflate>,
    ready: VecDeque<Frame<Bytes>>,
    over: bool,
}

impl Answer {
    pub(super) fn new(inner: Incoming, session: &Arc<Session>, inflate: Option<Inflate>) -> Self {
        Self {
            inner,
            session: Arc::clone(session),
            guard: session.values.guard(),
            inflate,
            ready: VecDeque::new(),
            over: false,
        }
    }

    fn frame(&mut self, frame: Frame<Bytes>) -> Result<(), BodyError> {
        match frame.into_data() {
            Ok(data) => {
                if let Some(inflate) = &mut self.inflate {
                    inflate.push(&data).map_err(|why| self.session.cut(&why))?;
                }
                let shown = self.guard.push(&data);
                let shown = shown.map_err(|error| self.session.cut(&InflateError::Echo(error)))?;
                self.session.replaced(self.guard.take_replaced());
                if !shown.is_empty() {
                    self.ready.push_back(Frame::data(shown));
                }
            }
            Err(frame) => {
                self.flush();
                if let Ok(mut trailers) = frame.into_trailers() {
                    self.session.clean_headers(&mut trailers);
                    self.ready.push_back(Frame::trailers(trailers));
                }
            }
        }
        Ok(())
    }

    fn flush(&mut self) {
        let held = self.guard.finish();
        if !held.is_empty() {
            self.ready.push_back(Frame::data(held.into()));
        }
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        loop {
            if let Some(frame) = self.ready.pop_front() {
                return Poll::Ready(Some(Ok(frame)));
            }
            if self.over {
                return Poll::Ready(None);
            }
            match ready!(Pin::new(&mut self.inner).poll_frame(context)) {
                None => {
                    self.over = true;
                    self.flush();
                }
                Some(frame) => {
                    let taken = frame
                        .map_err(BodyError::from)
                        .and_then(|frame| self.frame(frame));
                    if let Err(error) = taken {
                        self.over = true;
                        self.ready.clear();
                        return Poll::Ready(Some(Err(error)));
                    }
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.ready.is_empty() && (self.over || self.inner.is_end_stream() && !self.guard.holds())
    }

    fn size_hint(&self) -> SizeHint {
        // Nothing that is replaced changes its length.
        self.inner.size_hint()
    }
}

impl Session {
    /// Searches headers or trailers that the guest sends.
    pub(super) fn scan_headers(&self, headers: &HeaderMap) -> Result<(), super::super::leak::Leak> {
        let mut scanner = self.scanner();
        for (name, value) in headers {
            scanner.scan(name.as_str().as_bytes())?;
            scanner.scan(b": ")?;
            scanner.scan(value.as_bytes())?;
            // No value goes on in the next header.
            scanner.restart();
        }
        Ok(())
    }

    /// Replaces values in headers or trailers of an answer.
    pub(super) fn clean_headers(&self, headers: &mut HeaderMap) {
        if self.values.is_empty() {
            return;
        }
        for value in headers.values_mut() {
            if let Some((shown, names)) = self.values.clean(value.as_bytes())
                && let Ok(shown) = hyper::header::HeaderValue::from_bytes(&shown)
            {
                *value = shown;
                self.replaced(names);
            }
        }
    }

    pub(super) fn replaced(&self, names: Vec<String>) {
        for secret in names {
            let replaced = true;
            self.judge.note(Note::Echo { secret, replaced });
        }
    }

    pub(super) fn cut(&self, why: &InflateError) -> BodyError {
        match why {
            InflateError::Leak(leak) => self.judge.note(Note::Echo {
                secret: leak.secret.clone(),
                replaced: false,
            }),
            InflateError::Echo(echo) => self.judge.note(Note::Echo {
                secret: echo.secret.clone(),
                replaced: false,
            }),
            other => self.judge.note(Note::Refused(other.to_string())),
        }
        "the answer was cut off".into()
    }
}
