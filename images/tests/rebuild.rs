//! The whole way from a recipe to an image, with real packages. It downloads some hundred
//! megabytes, so it is run on request: `cargo test -p mayfly-images --test rebuild -- --ignored`.

use std::path::PathBuf;

use mayfly_images::{
    build::{BuildOptions, Built},
    progress::{Event, Progress},
    recipe::Recipe,
    store::ImageStore,
};

/// A static executable that stands for the agent: `MAYFLY_AGENT`, or busybox.
fn agent() -> PathBuf {
    std::env::var_os("MAYFLY_AGENT").map_or_else(|| "/bin/busybox".into(), PathBuf::from)
}

fn build(store: &ImageStore, rebuild: bool) -> Built {
    let options = BuildOptions {
        agent: agent(),
        name: None,
        rebuild,
        cache: store.directory().join("cache"),
        mirror: None,
    };
    let mut listen = |event: Event| {
        if let Event::Step(title) = event {
            eprintln!("{title}");
        }
    };
    let recipe = Recipe::find("minimal").expect("it comes with Mayfly");
    store
        .build(&recipe, &options, &mut Progress::new(&mut listen))
        .expect("the image is built")
}

#[test]
#[ignore = "downloads Debian packages and Node.js"]
fn the_same_recipe_and_agent_give_the_same_digest_twice() {
    let state = tempfile::tempdir().unwrap();
    let store = ImageStore::open(state.path()).unwrap();
    let first = build(&store, false);
    assert!(!first.cached);
    let second = build(&store, true);
    assert!(!second.cached);
    assert_eq!(first.image.digest, second.image.digest);
    let third = build(&store, false);
    assert!(third.cached);
    assert_eq!(third.image.digest, first.image.digest);
    second.image.verify(&mut |_, _| ()).unwrap();
    for package in ["bash", "git", "python3", "jq", "zstd"] {
        assert!(
            second.image.manifest.packages.contains_key(package),
            "{package}"
        );
    }
}
