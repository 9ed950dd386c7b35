//! What is answered: records of the upstream resolver, or why there are none.

use hickory_proto::op::{Edns, Message, MessageType, ResponseCode};
use hickory_proto::rr::rdata::opt::EdnsOption;
use hickory_proto::rr::rdata::svcb::SvcParamKey;
use hickory_proto::rr::{RData, Record};

/// Codes of "extended DNS errors" (RFC 8914).
const EXTENDED_ERROR: u16 = 15;
/// The operator does not want it.
pub(super) const PROHIBITED: u16 = 18;
/// The upstream resolver did not answer.
pub(super) const UNREACHABLE: u16 = 22;
/// Anything else.
pub(super) const OTHER: u16 = 0;
/// What is said of why, in bytes.
const LONGEST_WHY: usize = 200;
/// Largest datagram without EDNS, and the largest that we send with it.
const SMALL: u16 = 512;
const LARGE: u16 = 4096;
/// Records of an answer.
const RECORDS: usize = 256;

/// An answer without records, and why.
pub(super) fn refusal(question: &Message, code: ResponseCode, error: u16, why: &str) -> Message {
    let mut reply = empty(question);
    reply.metadata.response_code = code;
    if let Some(edns) = &mut reply.edns {
        let mut data = error.to_be_bytes().to_vec();
        let why: String = why.chars().filter(|c| !c.is_control()).collect();
        data.extend(&why.as_bytes()[..why.floor_char_boundary(LONGEST_WHY)]);
        let option = EdnsOption::Unknown(EXTENDED_ERROR, data);
        edns.options_mut().insert(option);
    }
    reply
}

/// An answer with records.
pub(super) fn records<'a>(
    question: &Message,
    code: ResponseCode,
    answers: impl IntoIterator<Item = &'a Record>,
    authorities: impl IntoIterator<Item = Record>,
) -> Message {
    let mut reply = empty(question);
    reply.metadata.response_code = code;
    reply.add_answers(answers.into_iter().take(RECORDS).cloned().map(without_ech));
    reply.add_authorities(authorities.into_iter().take(RECORDS));
    reply
}

fn empty(question: &Message) -> Message {
    let asked = &question.metadata;
    let mut reply = Message::new(asked.id, MessageType::Response, asked.op_code);
    reply.metadata.recursion_desired = asked.recursion_desired;
    reply.metadata.recursion_available = true;
    reply.add_queries(question.queries.iter().cloned());
    if question.edns.is_some() {
        let mut edns = Edns::new();
        edns.set_max_payload(LARGE);
        reply.set_edns(edns);
    }
    reply
}

/// With the keys of "encrypted client hello" a client would hide the name that it connects to.
fn without_ech(mut record: Record) -> Record {
    if let RData::HTTPS(hickory_proto::rr::rdata::HTTPS(service)) | RData::SVCB(service) =
        &mut record.data
    {
        let ech = |key: &SvcParamKey| matches!(key, SvcParamKey::EchConfigList);
        service.svc_params.retain(|(key, _)| !ech(key));
    }
    record
}

/// The bytes of an answer to `question`, shortened to what a datagram to its asker may hold.
pub(super) fn datagram(question: &Message, reply: &Message) -> Option<Vec<u8>> {
    let room = question.edns.as_ref().map_or(SMALL, Edns::max_payload);
    let room = usize::from(room.clamp(SMALL, LARGE));
    let bytes = reply.to_vec().ok()?;
    if bytes.len() <= room {
        return Some(bytes);
    }
    // The asker comes again over TCP.
    let mut short = empty(question);
    short.metadata.response_code = reply.metadata.response_code;
    short.metadata.truncation = true;
    short.to_vec().ok()
}
