//! What a message asks, as far as it may.

use hickory_proto::op::{Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RecordType};

/// Longest question that is read.
const LONGEST: usize = 4096;

/// One question.
#[derive(Debug)]
pub(super) struct Question {
    pub(super) message: Message,
    pub(super) name: Name,
    pub(super) kind: RecordType,
    /// The name in lower case, without its last dot.
    pub(super) text: String,
}

/// A message that is not answered with records.
#[derive(Debug)]
pub(super) enum Unanswered {
    /// It is no question at all.
    Silence,
    /// It is answered with this.
    Code(Box<Message>, ResponseCode, &'static str),
}

impl Question {
    /// Reads a message.
    pub(super) fn read(bytes: &[u8]) -> Result<Self, Unanswered> {
        let [high, low, flags, ..] = *bytes else {
            return Err(Unanswered::Silence);
        };
        // An answer is never answered.
        if bytes.len() < 12 || bytes.len() > LONGEST || flags & 0x80 != 0 {
            return Err(Unanswered::Silence);
        }
        let Ok(message) = Message::from_vec(bytes) else {
            let id = u16::from_be_bytes([high, low]);
            let empty = Message::new(id, MessageType::Query, OpCode::Query);
            return Err(refuse(empty, ResponseCode::FormErr, "it cannot be read"));
        };
        if message.metadata.op_code != OpCode::Query {
            return Err(refuse(
                message,
                ResponseCode::NotImp,
                "only questions are answered",
            ));
        }
        let [query] = message.queries.as_slice() else {
            return Err(refuse(
                message,
                ResponseCode::FormErr,
                "one question is answered",
            ));
        };
        let (name, kind, class) = (query.name.clone(), query.query_type, query.query_class);
        if class != DNSClass::IN || !is_passed(kind) {
            let why = "records of this kind are not passed";
            return Err(refuse(message, ResponseCode::Refused, why));
        }
        let text = name.to_ascii().to_ascii_lowercase();
        let text = text.strip_suffix('.').unwrap_or(&text).to_owned();
        Ok(Self {
            message,
            name,
            kind,
            text,
        })
    }
}

fn refuse(message: Message, code: ResponseCode, why: &'static str) -> Unanswered {
    Unanswered::Code(Box::new(message), code, why)
}

fn is_passed(kind: RecordType) -> bool {
    matches!(
        kind,
        RecordType::A
            | RecordType::AAAA
            | RecordType::CNAME
            | RecordType::MX
            | RecordType::TXT
            | RecordType::SRV
            | RecordType::PTR
            | RecordType::HTTPS
            | RecordType::SVCB
            | RecordType::NS
            | RecordType::SOA
            | RecordType::CAA
    )
}
