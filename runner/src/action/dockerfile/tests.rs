//! Dockerfiles as people write them, and as somebody would who wants an image to be missed.

use super::*;

fn found(text: &str) -> Vec<String> {
    let show = |base: Base| format!("{} {}", base.line, base.image);
    bases(text).unwrap().into_iter().map(show).collect()
}

#[test]
fn all_images_are_found_and_stages_are_not() {
    let text = "# syntax=docker/dockerfile:1.7
# a comment: FROM no:1
ARG VERSION=20 OTHER=\"x\"
FROM --platform=$BUILDPLATFORM node:${VERSION} AS build
RUN --mount=type=bind,from=tools:1,target=/t \\
    # in between
    echo FROM no:2
RUN <<EOF
from os import path
echo FROM no:3
EOF
FROM build as second
COPY --from=build /a /b
COPY --from=0 /a /b
copy --from=ghcr.io/x/y:1 /a /b
onbuild copy --from=on:1 /a /b
from scratch
FROM alpine:${MISSING:-3.20}
";
    let expected = [
        "1 docker/dockerfile:1.7",
        "4 node:20",
        "5 tools:1",
        "15 ghcr.io/x/y:1",
        "16 on:1",
        "18 alpine:3.20",
    ];
    assert_eq!(found(text), expected);
    assert_eq!(found("FROM \\\n  debian:12\n"), ["1 debian:12"]);
}

#[test]
fn an_image_that_is_known_only_at_build_time_is_refused() {
    for text in [
        "ARG BASE\nFROM $BASE\n",
        "FROM x AS y\nARG V=1\nFROM a:$V\n",
        "FROM a:${V\n",
    ] {
        assert!(bases(text).is_err(), "{text}");
    }
}

/// Each of these is an image for a builder, and none, or another, for a reader that is less careful.
#[test]
fn no_way_of_writing_hides_an_image() {
    for text in [
        "FR\\\nOM evil:1\n",
        "\u{feff}FROM evil:1\n",
        "FROM scratch\nRUN --mount=type=bind,FROM=evil:1 true\n",
        "FROM scratch\nONBUILD COPY --from=evil:1 a b\n",
        "# syntax=evil:1\nFROM scratch\n",
        "#!/usr/bin/env build\n# syntax=evil:1\nFROM scratch\n",
        "# a comment\n# escape=`\nFR\\\nOM evil:1\n",
        "# escape=`\nFR`\nOM evil:1\n",
        "FROM scratch\nCOPY --link --from=evil:1 a b\n",
        "FROM scratch\r\nCOPY\t--from=evil:1 a b\r\n",
        "FROM scratch\nRUN true \\\u{a0}\nFROM evil:1 AS x\n",
    ] {
        let images = bases(text).unwrap().into_iter().map(|base| base.image);
        assert_eq!(images.collect::<Vec<_>>(), ["evil:1"], "{text:?}");
    }
    // The number of a stage is no stage for `FROM`: it would be pulled.
    assert_eq!(found("FROM a:1\nFROM 0\n"), ["1 a:1", "2 0"]);
}

#[test]
fn what_builders_read_differently_is_refused() {
    for (text, line) in [
        // Older builders know no here-documents.
        ("FROM a:1\nRUN true <<EOF\nFROM evil:1\nEOF\n", 3),
        ("FROM a:1\nRUN true <<EOF\nCOPY --from=evil:1 a b\nEOF\n", 3),
        ("FROM a:1\nRUN true \\\n  # comment\nFROM evil:1\n", 4),
        ("FROM a:1\nCOPY --link\u{a0}--from=evil:1 a b\n", 2),
        ("FROM a:1\nCOPY --fr\"om=evil:1\" a b\n", 2),
        ("FROM a:1\nCOPY --f\\rom=evil:1 a b\n", 2),
        ("FROM\u{a0}evil:1\n", 1),
        ("FROM \"evil:1\"\n", 1),
        ("FROM ev\\\nil:1\n", 1),
        ("//syntax=evil:1\nFROM a:1\n", 1),
        ("{\"syntax\": \"evil:1\"}\n", 1),
        ("# unknown=1\n# escape=`\nFROM a:1\n", 2),
    ] {
        match bases(text) {
            Err(DockerfileError::Ambiguous { line: found, .. }) => {
                assert_eq!(found, line, "{text:?}");
            }
            other => panic!("{text:?}: {other:?}"),
        }
    }
}

#[test]
fn a_file_is_renamed_in_its_images_and_nowhere_else() {
    let text = "# syntax=docker/dockerfile:1\r\nARG V=20\nFROM --platform=$P node:${V} AS a\n\
                RUN --mount=type=bind,from=t:1,target=/t echo node:20\nCOPY --from=a / /\n\
                COPY --from=c:1 / /\n";
    let named = renamed(text, |base| Ok::<_, ()>(format!("<{}>", base.image))).unwrap();
    let expected = text
        .replace("docker/dockerfile:1", "<docker/dockerfile:1>")
        .replace("node:${V}", "<node:20>")
        .replace("from=t:1", "from=<t:1>")
        .replace("c:1 ", "<c:1> ");
    assert_eq!(named.unwrap(), expected);
    let failed = renamed("FROM a:1\n", |_| Err::<String, _>(7)).unwrap();
    assert_eq!(failed, Err(7));
    let long = format!("FROM a:1\n{}", "#".repeat(MAX_BYTES));
    assert_eq!(bases(&long), Err(DockerfileError::TooLong));
}
