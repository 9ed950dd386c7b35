//! Container images that steps and actions need, before anything runs.

use std::{fs, path::Path};

use super::super::{LoadError, Sources, load};
use crate::action::{bytes::NoActions, image_archives::ImageArchives};

const DOCKER: &str = "runs: {using: docker, image: Dockerfile}\n";

/// What is said of a workflow whose one job has these steps, with archives for some images.
fn said(steps: &str, files: &[(&str, &str)], images: &[&str]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let top = folder.path();
    let text = format!("on: push\njobs:\n  j:\n    runs-on: x\n    steps:\n{steps}");
    for (path, content) in files.iter().chain(&[("ci.yml", text.as_str())]) {
        let path = top.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    fs::write(top.join("a.tar"), [0; 1024]).unwrap();
    let arguments = images.iter().map(|image| {
        let argument = format!("{image}={}", top.join("a.tar").display());
        argument.parse().unwrap()
    });
    let images = ImageArchives::new(&arguments.collect::<Vec<_>>()).unwrap();
    let sources = Sources {
        actions: &NoActions,
        checkout: Some(Path::new(top)),
        images: &images,
    };
    match load(&top.join("ci.yml")).and_then(|loaded| loaded.runnable_with(&sources)) {
        Ok(_) => String::new(),
        Err(error @ LoadError::Rejected { .. }) => error.to_string(),
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn an_image_for_which_nothing_is_given_is_refused_with_its_place_and_the_flag() {
    let steps = "      - uses: docker://alpine:3\n";
    let error = said(steps, &[], &[]);
    for part in [
        "this step runs the container image alpine:3",
        "ci.yml:6:",
        "`docker save alpine:3 -o FILE`",
        "--container-image alpine:3=FILE",
    ] {
        assert!(error.contains(part), "{error}");
    }
    assert_eq!(said(steps, &[], &["docker.io/library/alpine:3"]), "");
    assert!(said(steps, &[], &["alpine"]).contains("alpine:3"));
}

#[test]
fn images_of_actions_are_looked_at_where_they_are_known() {
    let steps = "      - uses: ./a\n";
    let registry = "runs: {using: docker, image: 'docker://octo/tool:1'}\n";
    let error = said(steps, &[("a/action.yml", registry)], &[]);
    assert!(
        error.contains("the action ./a runs the container image octo/tool:1"),
        "{error}"
    );
    for (file, base, refused) in [
        ("FROM scratch\n", "", false),
        ("FROM alpine:3 AS one\nFROM one\n", "", true),
        ("FROM alpine:3\n", "alpine:3", false),
        ("ARG V\nFROM alpine:$V\n", "", false),
        ("FROM scratch\nCOPY --from=busybox:1 /bin /bin\n", "", true),
    ] {
        let images: Vec<_> = Some(base)
            .filter(|base| !base.is_empty())
            .into_iter()
            .collect();
        let error = said(
            steps,
            &[("a/action.yml", DOCKER), ("a/Dockerfile", file)],
            &images,
        );
        assert_eq!(
            error.contains("the action ./a builds on (Dockerfile, line "),
            refused,
            "{error}"
        );
        assert_eq!(error.is_empty(), !refused, "{error}");
    }
    // Without a manifest, and one that only an earlier step makes.
    let error = said(steps, &[("a/Dockerfile", "FROM alpine:3\n")], &[]);
    assert!(error.contains("Dockerfile, line 1"), "{error}");
    assert_eq!(said(steps, &[], &[]), "");
}

#[test]
fn an_image_inside_of_a_composite_action_is_told_with_both_places() {
    let action = "runs:\n  using: composite\n  steps:\n    - uses: docker://alpine:3\n";
    let error = said("      - uses: ./a\n", &[("a/action.yml", action)], &[]);
    assert!(
        error.contains("./a, line 4, column 7: this step runs"),
        "{error}"
    );
    assert!(error.contains("--container-image alpine:3=FILE"), "{error}");
}

#[test]
fn images_of_containers_and_services_are_looked_at_where_they_are_known() {
    let steps = "      - run: x\n    container: docker://alpine:3\n    services:\n      db: db:1\n      \
                 web: {image: 'web:1'}\n      later: {image: '${{ vars.image }}'}\n";
    let error = said(steps, &[], &["web:1"]);
    for part in [
        "ci.yml:7:",
        "the job runs in the container image alpine:3",
        "--container-image alpine:3=FILE",
        "ci.yml:9:",
        "the service db runs the container image db:1",
    ] {
        assert!(error.contains(part), "{part}: {error}");
    }
    assert!(!error.contains("web:1"), "{error}");
    assert_eq!(said(steps, &[], &["web:1", "db:1", "alpine:3"]), "");
}
