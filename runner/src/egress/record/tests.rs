//! Records, written and read back.

use std::sync::{Arc, Mutex};

use crate::{
    egress::{Transport, policy::Verdict},
    notice::Notice,
};

use super::{Answer, Line, Record, RecordFile, read};

fn line(verdict: Verdict, host: &str) -> Line {
    Line {
        time: "2026-01-02T03:04:05.678Z".into(),
        connection: 7,
        within: None,
        steps: vec!["Install".into()],
        command: None,
        transport: Transport::Tcp,
        name: Some(host.into()),
        address: Some([203, 0, 113, 7].into()),
        port: 443,
        protocol: "tls".into(),
        method: None,
        path: None,
        sent: 10,
        received: 20_000,
        seconds: 0.5,
        verdict,
        rule: None,
        why: "no rule of pool allows it".into(),
        answer: None,
    }
}

#[test]
fn lines_are_read_back_as_they_were_written() {
    let folder = tempfile::tempdir().unwrap();
    let file = RecordFile::create(folder.path(), "build (1/2)").unwrap();
    let path = file.path().to_owned();
    assert!(
        path.file_name()
            .unwrap()
            .to_str()
            .unwrap()
            .ends_with("-build__1_2_.jsonl")
    );
    let record = Record::new(Some(file), None);
    let mut request = line(Verdict::Deny, "api.github.com");
    request.within = Some(7);
    request.method = Some("POST".into());
    request.path = Some("/user/repos".into());
    request.answer = Some(Answer::Note("x".into()));
    record.add(line(Verdict::Allow, "a.example.com"));
    record.add(request.clone());
    record.finish().unwrap();
    assert_eq!(
        read(&path).unwrap(),
        [line(Verdict::Allow, "a.example.com"), request]
    );
    std::fs::write(&path, "{\"x\": 1}\n").unwrap();
    let said = read(&path).unwrap_err().to_string();
    assert!(said.contains("line 1"), "{said}");
}

#[test]
fn secrets_are_hidden_before_anything_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let file = RecordFile::create(folder.path(), "job").unwrap();
    let path = file.path().to_owned();
    let record = Record::new(Some(file), None);
    record.hide_with(Arc::new(|text| text.replace("hunter2", "***")));
    let mut told = line(Verdict::Deny, "hunter2.evil.test");
    told.path = Some("/hunter2".into());
    told.why = "hunter2".into();
    told.answer = Some(Answer::Broken("hunter2".into()));
    record.add(told);
    record.finish().unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(
        !text.contains("hunter2") && text.contains("***.evil.test"),
        "{text}"
    );
    assert!(!record.table().markdown().contains("hunter2"));
}

#[test]
fn the_table_has_what_was_denied_first_and_equal_ones_once() {
    let record = Record::new(None, None);
    for _ in 0..3 {
        record.add(line(Verdict::Allow, "a.example.com"));
    }
    record.add(line(Verdict::Audit, "b.example.com"));
    let mut evil = line(Verdict::Deny, "x|y`<b>.test");
    evil.steps = vec!["[click](http://evil)\nnext".into()];
    record.add(evil);
    let table = record.table();
    assert_eq!(table.counts(), [1, 1, 3]);
    let lines = table.lines();
    assert_eq!(
        lines[1..],
        [
            "would be denied b.example.com:443 (tls), 10 B sent, 20 kB received, in Install: no rule of pool allows it",
            "allowed         a.example.com:443 (tls) 3 times, 30 B sent, 60 kB received, in Install",
        ]
    );
    assert!(lines[0].starts_with("denied"), "{lines:?}");
    let markdown = table.markdown();
    let rows: Vec<&str> = markdown.lines().skip(4).collect();
    assert!(
        rows[0].starts_with("| denied | x&#124;y&#96;&#60;b&#62;.test | 443/tls |"),
        "{markdown}"
    );
    assert!(!markdown.contains("[click]"), "{markdown}");
    assert_eq!(rows.len(), 3);
}

#[test]
fn a_flood_of_names_is_counted_and_not_kept() {
    let record = Record::new(None, None);
    for number in 0..6000 {
        record.add(line(Verdict::Deny, &format!("n{number}.evil.test")));
    }
    let lines = record.table().lines();
    assert_eq!(lines.len(), 41);
    assert_eq!(lines[40], "… and 5960 more; the record has all");
}

#[test]
fn counts_are_told_by_verdict() {
    let told: Arc<Mutex<Vec<Notice>>> = Arc::default();
    let sink = Arc::clone(&told);
    let record = Record::new(
        None,
        Some(Arc::new(move |notice| sink.lock().unwrap().push(notice))),
    );
    record.add(line(Verdict::Allow, "a.example.com"));
    record.add(line(Verdict::Audit, "a.example.com"));
    record.add(line(Verdict::Deny, "a.example.com"));
    let mut request = line(Verdict::Deny, "a.example.com");
    request.within = Some(7);
    record.add(request);
    record.finish().unwrap();
    let counts = |verdict: &str, connections, sent, received| Notice::Egress {
        verdict: verdict.into(),
        connections,
        sent,
        received,
    };
    let expected = [
        counts("allow", 2, 20, 40_000),
        counts("deny", 1, 10, 20_000),
    ];
    assert_eq!(*told.lock().unwrap(), expected);
}

#[test]
fn a_folder_that_cannot_be_written_is_named() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let said = RecordFile::create(file.path(), "job")
        .unwrap_err()
        .to_string();
    assert!(said.contains(file.path().to_str().unwrap()), "{said}");
}
