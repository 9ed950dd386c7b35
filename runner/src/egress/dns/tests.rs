//! A gateway in front of a name server of the test's own, which answers, is dead, slow or lies.

use std::net::{Ipv4Addr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::opt::{EdnsCode, EdnsOption};
use hickory_proto::rr::rdata::svcb::{EchConfigList, SVCB, SvcParamKey, SvcParamValue};
use hickory_proto::rr::rdata::{A, CNAME, HTTPS, SOA, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use tokio::net::UdpSocket;

use super::{Gateway, Names, Upstream};

/// What the server does with a question.
type Server = fn(&Query, &mut Message) -> bool;

fn name(text: &str) -> Name {
    Name::from_str(text).unwrap()
}

fn record(of: &str, ttl: u32, data: RData) -> Record {
    Record::from_rdata(name(of), ttl, data)
}

fn address(last: u8) -> RData {
    RData::A(A(Ipv4Addr::new(192, 0, 2, last)))
}

/// Starts a name server; `act` says whether it answers.
async fn server(act: Server) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let at = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 2048];
        while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
            let asked = Message::from_vec(&buffer[..length]).unwrap();
            let id = asked.metadata.id;
            let mut reply = Message::new(id, MessageType::Response, OpCode::Query);
            reply.add_queries(asked.queries.clone());
            if act(&asked.queries[0], &mut reply) {
                let bytes = reply.to_vec().unwrap();
                let _ = socket.send_to(&bytes, from).await;
            }
        }
    });
    at
}

async fn gateway(act: Server) -> (Gateway, Arc<Names>) {
    let names = Arc::new(Names::default());
    let upstream = Upstream::at(server(act).await).unwrap();
    let upstream = upstream.within(Duration::from_secs(1));
    let may = Arc::new(|name: &str| match name {
        "forbidden.example" => Err("no rule allows it".to_owned()),
        _ => Ok(()),
    });
    (Gateway::new(upstream, Arc::clone(&names), may), names)
}

fn question(of: &str, kind: RecordType) -> Vec<u8> {
    let mut message = Message::new(7, MessageType::Query, OpCode::Query);
    message.add_query(Query::query(name(of), kind));
    message.set_edns(Edns::new());
    message.to_vec().unwrap()
}

async fn ask(gateway: &Gateway, of: &str, kind: RecordType) -> Message {
    let (_, reply) = gateway.answer(&question(of, kind)).await.unwrap();
    // As the guest would read it.
    let reply = Message::from_vec(&reply.to_vec().unwrap()).unwrap();
    assert_eq!(reply.metadata.id, 7);
    reply
}

fn why(reply: &Message) -> String {
    let edns = reply.edns.as_ref().unwrap();
    match edns.option(EdnsCode::Unknown(15)) {
        Some(EdnsOption::Unknown(_, data)) => String::from_utf8(data[2..].to_vec()).unwrap(),
        _ => String::new(),
    }
}

fn ordinary(query: &Query, reply: &mut Message) -> bool {
    let text = query.name.to_ascii().to_lowercase();
    match (text.as_str(), query.query_type) {
        ("www.example.", RecordType::A) => {
            let target = RData::CNAME(CNAME(name("edge.example.")));
            reply.add_answer(record("www.example.", 300, target));
            reply.add_answer(record("edge.example.", 60, address(1)));
        }
        ("rebind.example.", RecordType::A) => {
            let inside = RData::A(A(Ipv4Addr::new(169, 254, 169, 254)));
            reply.add_answer(record("rebind.example.", 1, inside));
        }
        ("ech.example.", RecordType::HTTPS) => {
            let ech = SvcParamValue::EchConfigList(EchConfigList(vec![1, 2, 3]));
            let service = SVCB::new(
                1,
                Name::root(),
                vec![
                    (SvcParamKey::Port, SvcParamValue::Port(443)),
                    (SvcParamKey::EchConfigList, ech),
                ],
            );
            let data = RData::HTTPS(HTTPS(service));
            reply.add_answer(record("ech.example.", 60, data));
        }
        ("long.example.", RecordType::TXT) => {
            for number in 0..9 {
                let text = format!("{number}{}", "x".repeat(100));
                reply.add_answer(record(
                    "long.example.",
                    60,
                    RData::TXT(TXT::new(vec![text])),
                ));
            }
        }
        _ => {
            let soa = SOA::new(name("ns.example."), name("a.example."), 1, 2, 3, 4, 30);
            reply.add_authority(record("example.", 30, RData::SOA(soa)));
            reply.metadata.response_code = ResponseCode::NXDomain;
        }
    }
    true
}

#[tokio::test]
async fn answers_are_passed_on_with_their_ttl_and_remembered() {
    let (gateway, names) = gateway(ordinary).await;
    let reply = ask(&gateway, "WWW.example.", RecordType::A).await;
    assert_eq!(reply.metadata.response_code, ResponseCode::NoError);
    let found: Vec<_> = reply
        .answers
        .iter()
        .map(|it| (it.record_type(), it.ttl))
        .collect();
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(
        found.iter().all(|(_, ttl)| (1..=300).contains(ttl)),
        "{found:?}"
    );
    let leaf = found
        .iter()
        .find(|(kind, _)| *kind == RecordType::A)
        .unwrap();
    assert!((58..=60).contains(&leaf.1), "{found:?}");
    assert_eq!(
        names.of(Ipv4Addr::new(192, 0, 2, 1).into()),
        ["www.example"]
    );
    // An address of the host's side is known by its name, too: the policy refuses it by its address.
    ask(&gateway, "rebind.example.", RecordType::A).await;
    let metadata = Ipv4Addr::new(169, 254, 169, 254).into();
    assert_eq!(names.of(metadata), ["rebind.example"]);
}

#[tokio::test]
async fn what_is_not_there_is_said_for_as_long_as_the_zone_says() {
    let (gateway, _) = gateway(ordinary).await;
    let reply = ask(&gateway, "missing.example.", RecordType::A).await;
    assert_eq!(reply.metadata.response_code, ResponseCode::NXDomain);
    assert_eq!(reply.authorities[0].record_type(), RecordType::SOA);
    assert_eq!(reply.authorities[0].ttl, 30);
}

#[tokio::test]
async fn names_that_may_not_be_asked_for_are_refused_with_the_reason_and_never_sent_on() {
    let (gateway, _) = gateway(|query, _| panic!("asked for {query}")).await;
    let reply = ask(&gateway, "Forbidden.example.", RecordType::A).await;
    assert_eq!(reply.metadata.response_code, ResponseCode::Refused);
    assert_eq!(why(&reply), "no rule allows it");
    let long = format!("{}.example.", vec!["a".repeat(60); 3].join("."));
    let reply = ask(&gateway, &long, RecordType::A).await;
    assert_eq!(reply.metadata.response_code, ResponseCode::Refused);
    let reply = ask(&gateway, "example.com.", RecordType::ANY).await;
    assert_eq!(reply.metadata.response_code, ResponseCode::Refused);
    for (inside, kind) in [
        ("localhost.", RecordType::A),
        ("intranet.", RecordType::A),
        ("printer.local.", RecordType::AAAA),
        ("1.0.0.127.in-addr.arpa.", RecordType::PTR),
        ("1.0.168.192.in-addr.arpa.", RecordType::PTR),
    ] {
        let reply = ask(&gateway, inside, kind).await;
        assert_eq!(
            reply.metadata.response_code,
            ResponseCode::NXDomain,
            "{inside}"
        );
    }
}

#[tokio::test]
async fn keys_of_encrypted_hellos_are_taken_out() {
    let (gateway, _) = gateway(ordinary).await;
    let reply = ask(&gateway, "ech.example.", RecordType::HTTPS).await;
    let RData::HTTPS(HTTPS(service)) = &reply.answers[0].data else {
        panic!("{reply:?}");
    };
    let keys: Vec<_> = service.svc_params.iter().map(|(key, _)| *key).collect();
    assert_eq!(keys, [SvcParamKey::Port]);
}

#[tokio::test]
async fn an_answer_too_large_for_a_datagram_is_asked_for_again_over_tcp() {
    let (gateway, _) = gateway(ordinary).await;
    let mut asked = Message::new(7, MessageType::Query, OpCode::Query);
    asked.add_query(Query::query(name("long.example."), RecordType::TXT));
    let asked = asked.to_vec().unwrap();
    let (question, reply) = gateway.answer(&asked).await.unwrap();
    assert_eq!(reply.answers.len(), 9);
    let bytes = super::reply::datagram(&question, &reply).unwrap();
    assert!(bytes.len() <= 512);
    assert!(Message::from_vec(&bytes).unwrap().metadata.truncation);
}

#[tokio::test]
async fn a_server_that_is_dead_slow_or_lies_is_a_failure_in_time() {
    let silent: Server = |_, _| false;
    let wrong: Server = |_, reply| {
        reply.metadata.id = reply.metadata.id.wrapping_add(1);
        reply.add_answer(record("www.example.", 60, address(66)));
        true
    };
    let other: Server = |_, reply| {
        reply.queries = vec![Query::query(name("evil.example."), RecordType::A)];
        reply.add_answer(record("evil.example.", 60, address(66)));
        true
    };
    let failing: Server = |_, reply| {
        reply.metadata.response_code = ResponseCode::ServFail;
        true
    };
    for act in [silent, wrong, other, failing] {
        let (gateway, names) = gateway(act).await;
        let begun = Instant::now();
        let reply = ask(&gateway, "www.example.", RecordType::A).await;
        assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
        assert!(!why(&reply).is_empty());
        assert!(reply.answers.is_empty());
        assert!(
            begun.elapsed() < Duration::from_secs(4),
            "{:?}",
            begun.elapsed()
        );
        assert!(names.of(Ipv4Addr::new(192, 0, 2, 66).into()).is_empty());
    }
}

#[tokio::test]
async fn messages_that_are_no_questions_are_not_answered_or_told_so() {
    let (gateway, _) = gateway(|_, _| panic!("nothing to ask")).await;
    let mut answer = question("a.example.", RecordType::A);
    answer[2] |= 0x80;
    for silence in [&[][..], &[0; 11], &answer, &[0; 5000]] {
        assert!(gateway.answer(silence).await.is_none());
    }
    let mut broken = question("a.example.", RecordType::A);
    broken[12] = 0xff;
    let (_, reply) = gateway.answer(&broken).await.unwrap();
    assert_eq!(reply.metadata.response_code, ResponseCode::FormErr);
    assert_eq!(reply.metadata.id, 7);
}
