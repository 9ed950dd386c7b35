//! Recipes that are right, and what is said about those that are not.

use super::*;

const GOOD: &str = r#"
version = 1
name = "mine"
[debian]
suite = "bookworm"
packages = ["bash"]
[kernel]
package = "linux-image-cloud-amd64"
command-line = "console=ttyS0"
modules = ["virtio_blk"]
"#;

/// The error for [`GOOD`] with `from` replaced by `to`.
fn error(from: &str, to: &str) -> String {
    let text = GOOD.replacen(from, to, 1);
    assert_ne!(text, GOOD, "nothing was replaced");
    Recipe::parse(&text, "mine.toml").unwrap_err().to_string()
}

#[test]
fn builtin_recipes_are_sound_and_differ() {
    let digests: Vec<_> = names()
        .iter()
        .map(|name| Recipe::find(name).unwrap().digest())
        .collect();
    assert_eq!(digests.len(), 2);
    assert_ne!(digests[0], digests[1]);
}

#[test]
fn the_standard_recipe_holds_every_package_of_the_minimal_one() {
    let [minimal, standard] =
        ["minimal", "standard"].map(|name| Recipe::find(name).unwrap().debian.packages);
    for package in minimal {
        assert!(standard.contains(&package), "{package}");
    }
}

#[test]
fn a_comment_does_not_change_the_digest_and_a_package_does() {
    let digest = |text: &str| Recipe::parse(text, "x").unwrap().digest();
    assert_eq!(digest(GOOD), digest(&format!("# hello\n{GOOD}")));
    assert_ne!(digest(GOOD), digest(&GOOD.replace("\"bash\"", "\"dash\"")));
}

#[test]
fn an_unknown_key_is_refused_with_its_line() {
    let message = error("suite =", "siute =");
    assert!(message.contains("mine.toml"), "{message}");
    assert!(message.contains("line 5"), "{message}");
    assert!(message.contains("siute"), "{message}");
}

#[test]
fn a_missing_key_is_named() {
    assert!(error("suite = \"bookworm\"\n", "").contains("suite"));
}

#[test]
fn values_that_tools_would_take_for_something_else_are_refused_by_key() {
    let cases = [
        ("\"bash\"", "\"--include=x\"", "debian.packages[0]"),
        ("\"bash\"", "\"bash;reboot\"", "debian.packages[0]"),
        ("\"bookworm\"", "\"../x\"", "debian.suite"),
        ("version = 1", "version = 2", "version"),
        ("\"mine\"", "\"../mine\"", "name"),
        ("\"mine\"", "\"deadbeef\"", "name"),
        ("linux-image-cloud-amd64", "bash", "kernel.package"),
        ("console=ttyS0", "a\\nb", "kernel.command-line"),
        ("virtio_blk", "../x", "kernel.modules[0]"),
    ];
    for (from, to, key) in cases {
        let message = error(from, to);
        assert!(
            message.starts_with(&format!("recipe mine.toml: {key} is ")),
            "{message}"
        );
    }
}

#[test]
fn files_users_and_node_are_checked() {
    let integrity = format!("sha512-{}==", "A".repeat(86));
    let cases = [
        (
            "[[file]]\npath = \"/a/../b\"\ncontent = \"\"",
            "file[0].path",
        ),
        (
            "[[file]]\npath = \"/a\"\ncontent = \"\"\nmode = \"rw\"",
            "file[0].mode",
        ),
        ("[[user]]\nname = \"root:x\"\nuid = 1000", "user[0].name"),
        ("[[user]]\nname = \"a\"\nuid = 0", "user[0].uid"),
        ("[run]\nuser = \"nobody\"", "run.user"),
        (
            "[[node]]\nmajor = 20\nversion = \"20\"\nintegrity = \"\"",
            "node[0].version",
        ),
        (
            "[[node]]\nmajor = 20\nversion = \"20.1.1\"\nintegrity = \"sha1-x\"",
            "node[0].integrity",
        ),
        (
            &format!("[[node]]\nmajor = 22\nversion = \"20.1.1\"\nintegrity = \"{integrity}\""),
            "node[0].version",
        ),
    ];
    for (addition, key) in cases {
        let message = Recipe::parse(&format!("{GOOD}\n{addition}"), "r")
            .unwrap_err()
            .to_string();
        assert!(
            message.starts_with(&format!("recipe r: {key} is ")),
            "{message}"
        );
    }
}

#[test]
fn sizes_are_whole_numbers_with_a_unit() {
    assert_eq!("16GiB".parse::<Size>().unwrap().bytes(), 16 << 30);
    assert_eq!("100MiB".parse::<Size>().unwrap().to_string(), "100MiB");
    for wrong in [
        "",
        "16",
        "16GB",
        "-1GiB",
        "1MiB",
        "99999999999999GiB",
        "5000GiB",
    ] {
        assert!(wrong.parse::<Size>().is_err(), "{wrong}");
    }
}

#[test]
fn an_unknown_name_says_which_recipes_there_are() {
    let message = Recipe::find("tiny").unwrap_err().to_string();
    assert!(message.contains("minimal and standard"), "{message}");
}
