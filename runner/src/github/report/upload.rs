//! Brings logs and summaries to their blobs, block by block and in order.
//!
//! A block is tried until it is there: a service that fails for a while loses no line. What waits is
//! bounded, so a step that writes faster than the service takes is slowed down.

use std::collections::HashMap;

use bytes::Bytes;
use reqwest::{RequestBuilder, StatusCode};
use tokio::{sync::mpsc, time::sleep};

use super::deadline::Deadline;
use super::service::{Document, Place, ResultsError, ResultsService};
use crate::github::{http::Refusal, pause::Backoff};

/// A part of a document.
#[derive(Debug)]
pub struct Block {
    /// Whose.
    pub document: Document,
    /// What.
    pub bytes: Bytes,
    /// Whether nothing comes after it.
    pub last: bool,
    /// What the document has then: lines of a log, bytes of a summary.
    pub size: u64,
}

/// Why a block is not where it should be.
#[derive(Debug, thiserror::Error)]
enum BlockError {
    #[error(transparent)]
    Results(#[from] ResultsError),
    #[error("the blob store refused a block: {0}")]
    Refused(Refusal),
    #[error("the job is over, and the service did not come back in time")]
    Late,
}

impl BlockError {
    fn may_pass(&self) -> bool {
        match self {
            Self::Results(error) => error.may_pass(),
            // 403: the place was good for too short a time; the next try gets another.
            Self::Refused(refusal) => {
                matches!(refusal.status, 403 | 408 | 429) || refusal.status >= 500
            }
            Self::Late => false,
        }
    }
}

/// A document that is being appended to.
#[derive(Debug, Default)]
struct Appended {
    /// Whether its blob was made.
    made: bool,
    /// Bytes in it.
    length: u64,
    /// Whether the last request about it had no answer: it may have been carried out.
    unanswered: bool,
    /// Whether a block was given up; what comes after it is not sent.
    broken: bool,
}

/// Uploads blocks.
#[derive(Debug)]
pub struct Uploader {
    service: ResultsService,
    documents: HashMap<Document, Appended>,
    deadline: Deadline,
    /// Waits between tries.
    backoff: Backoff,
    lost: u64,
}

impl Uploader {
    /// An uploader that has not begun.
    #[must_use]
    pub fn new(service: ResultsService, deadline: Deadline, backoff: Backoff) -> Self {
        Self {
            service,
            documents: HashMap::new(),
            deadline,
            backoff,
            lost: 0,
        }
    }

    /// Uploads all blocks that come. Returns how many documents are not whole.
    pub async fn run(mut self, mut blocks: mpsc::Receiver<Block>) -> u64 {
        while let Some(block) = blocks.recv().await {
            if self
                .documents
                .get(&block.document)
                .is_some_and(|d| d.broken)
            {
                continue;
            }
            if let Err(error) = self.settle(&block).await {
                tracing::warn!(document = ?block.document, %error, "a part of the job's page is lost");
                self.documents.entry(block.document).or_default().broken = true;
                self.lost += 1;
            } else if block.last {
                self.documents.remove(&block.document);
            }
        }
        self.lost
    }

    /// Tries until the block is there, is refused for good, or time is over.
    async fn settle(&mut self, block: &Block) -> Result<(), BlockError> {
        let mut document = self.documents.remove(&block.document).unwrap_or_default();
        let mut backoff = self.backoff.clone();
        let mut sent = false;
        let result = loop {
            let tried = async {
                if !sent {
                    send(&self.service, &mut document, block).await?;
                    sent = true;
                }
                if block.last {
                    self.service.is_whole(&block.document, block.size).await?;
                }
                Ok(())
            };
            let tried: Option<Result<(), BlockError>> = self.deadline.before(tried).await;
            match tried.unwrap_or(Err(BlockError::Late)) {
                Err(error) if error.may_pass() => {
                    let wait = backoff.after_failure();
                    tracing::debug!(%error, ?wait, "a part of the job's page will be tried again");
                    if self.deadline.before(sleep(wait)).await.is_none() {
                        break Err(error);
                    }
                }
                settled => break settled,
            }
        };
        self.documents.insert(block.document.clone(), document);
        result
    }
}

/// Sends one block: as a whole blob if it is all there is, else by appending.
async fn send(
    service: &ResultsService,
    document: &mut Appended,
    block: &Block,
) -> Result<(), BlockError> {
    let client = service.http.client();
    if block.last && !document.made {
        let place = service.place(&block.document).await?;
        let put = client.put(place.url.clone()).body(block.bytes.clone());
        return put_blob(service, &place, put, &[("x-ms-blob-type", "BlockBlob")]).await;
    }
    if !document.made {
        let place = service.place(&block.document).await?;
        let put = client.put(place.url.clone()).header("content-length", "0");
        put_blob(service, &place, put, &[("x-ms-blob-type", "AppendBlob")]).await?;
        document.made = true;
    }
    let place = service.place(&block.document).await?;
    let mut url = place.url.clone();
    url.query_pairs_mut().append_pair("comp", "appendblock");
    if block.last {
        url.query_pairs_mut().append_pair("seal", "true");
    }
    let sealed = if block.last { "True" } else { "False" };
    let offset = document.length.to_string();
    let put = client.put(url).body(block.bytes.clone());
    // The position makes a block that arrived, though its answer did not, be refused the second time.
    let headers = [
        ("x-ms-blob-sealed", sealed),
        ("x-ms-blob-condition-appendpos", &offset),
    ];
    let before = std::mem::replace(&mut document.unanswered, true);
    let answered = put_blob(service, &place, put, &headers).await;
    document.unanswered = matches!(answered, Err(BlockError::Results(_)));
    match answered {
        Err(BlockError::Refused(refusal)) if refusal.status == 412 => {}
        // It was sealed by the try that had no answer.
        Err(BlockError::Refused(refusal)) if refusal.status == 409 && block.last && before => {}
        other => other?,
    }
    document.length += block.bytes.len() as u64;
    Ok(())
}

/// Sends a request to a blob. It carries no token: the address is the permission.
async fn put_blob(
    service: &ResultsService,
    place: &Place,
    mut put: RequestBuilder,
    headers: &[(&str, &str)],
) -> Result<(), BlockError> {
    put = put.header("content-type", "text/plain");
    if place.azure {
        for (name, value) in headers {
            put = put.header(*name, *value);
        }
    }
    let answer = service.http.send(put).await.map_err(ResultsError::from)?;
    match answer.status {
        StatusCode::OK | StatusCode::CREATED | StatusCode::ACCEPTED => Ok(()),
        _ => Err(BlockError::Refused(answer.refusal())),
    }
}
