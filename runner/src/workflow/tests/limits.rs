//! Files that are too much: refused in bounded time, with a bounded message.

use std::time::{Duration, Instant};

use super::super::source::MAX_FILE_BYTES;
use super::{plan, refuse};

/// Refuses a text in a time that a quadratic reader would not keep, with a bounded message.
fn refuse_fast(text: &str, part: &str) {
    let started = Instant::now();
    let shown = refuse(text).to_string();
    assert!(
        started.elapsed() < Duration::from_secs(120),
        "{:?}",
        started.elapsed()
    );
    assert!(shown.contains(part), "{shown}");
    assert!(shown.len() < 100_000);
}

#[test]
fn files_that_are_too_much_are_refused_in_no_time() {
    let job = "{runs-on: x, steps: [{run: a}]}";
    refuse_fast(&"a".repeat(10 * MAX_FILE_BYTES), "more than the 1048576");
    let list: Vec<_> = (0..257).map(|n| n.to_string()).collect();
    let matrix = format!(
        "on: push\njobs:\n  a: {{strategy: {{matrix: {{n: [{}]}}}}, runs-on: x, steps: [{{run: a}}]}}\n",
        list.join(", ")
    );
    refuse_fast(&matrix, "more than 256 jobs");
    let deep = format!("on: push\njobs: {{a: {job}}}\nenv: {}", "[".repeat(5000));
    refuse_fast(&deep, "");
    let nested = format!(
        "on: push\njobs:\n  a:\n    if: {}1{}\n    runs-on: x\n    steps: [{{run: a}}]\n",
        "(".repeat(100),
        ")".repeat(100)
    );
    refuse_fast(&nested, "Exceeded max expression depth 50");
    let unknown: String = (0..50_000).map(|n| format!("k{n}: 1\n")).collect();
    refuse_fast(&unknown, "unknown key `k0`");
    let steps = "      - {run: '${{ nope }}'}\n".repeat(10_000);
    refuse_fast(
        &format!("on: push\njobs:\n  a:\n    runs-on: x\n    steps:\n{steps}"),
        "nope",
    );
}

#[test]
fn a_bomb_of_aliases_is_refused_before_it_bursts() {
    // Ten of ten of ten …: a thousand million steps in a file of a few hundred bytes.
    let mut bomb = "on: push\nenv:\n  a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..9 {
        let ten = vec![format!("*a{}", level - 1); 10].join(", ");
        bomb += &format!("  a{level}: &a{level} [{ten}]\n");
    }
    bomb += "jobs:\n  a: {runs-on: x, steps: *a8}\n";
    assert!(bomb.len() < 1000);
    refuse_fast(&bomb, "with its aliases put in, the file has more than");
}

#[test]
fn many_jobs_that_need_each_other_are_read_in_no_time() {
    let mut chain = "on: push\njobs:\n".to_owned();
    for job in 0..10_000 {
        chain += &format!(
            "  j{job}: {{needs: j{}, runs-on: x, steps: [{{run: a}}]}}\n",
            job + 1
        );
    }
    let started = Instant::now();
    let circle = chain.clone() + "  j10000: {needs: j0, runs-on: x, steps: [{run: a}]}\n";
    assert_eq!(refuse(&circle).errors(), 1);
    chain += "  j10000: {runs-on: x, steps: [{run: a}]}\n";
    assert_eq!(plan(&chain).jobs().next().unwrap().id, "j10000");
    assert!(
        started.elapsed() < Duration::from_secs(120),
        "{:?}",
        started.elapsed()
    );
    let started = Instant::now();
    let mut text = "on: push\njobs:\n  j0: {runs-on: x, steps: [{run: a}]}\n".to_owned();
    for job in 1..1000 {
        let needs: Vec<_> = (job.max(10) - 10..job)
            .map(|need| format!("j{need}"))
            .collect();
        text += &format!(
            "  j{job}: {{needs: [{}], runs-on: x, steps: [{{run: a}}]}}\n",
            needs.join(", ")
        );
    }
    let plan = plan(&text);
    assert_eq!(plan.jobs().count(), 1000);
    assert!(
        started.elapsed() < Duration::from_secs(120),
        "{:?}",
        started.elapsed()
    );
}
