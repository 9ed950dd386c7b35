//! Builds an image and prints its manifest: `build STATE RECIPE AGENT [--rebuild]`.

use std::{path::PathBuf, process::ExitCode};

use mayfly_images::{
    build::BuildOptions,
    progress::{Event, Progress},
    recipe::Recipe,
    store::ImageStore,
};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [state, recipe, agent, rest @ ..] = &arguments[..] else {
        return Err("usage: build STATE RECIPE AGENT [--rebuild]".into());
    };
    let options = BuildOptions {
        agent: PathBuf::from(agent),
        name: None,
        rebuild: rest.iter().any(|argument| argument == "--rebuild"),
        cache: PathBuf::from(state).join("cache"),
        mirror: None,
    };
    let begin = std::time::Instant::now();
    let mut listen = |event: Event| match event {
        Event::Step(title) => eprintln!("[{:6.1} s] {title}", begin.elapsed().as_secs_f64()),
        Event::Output(line) => eprintln!("           {line}"),
        Event::Done { .. } => (),
    };
    let store = ImageStore::open(&PathBuf::from(state))?;
    let built = store.build(
        &Recipe::find(recipe)?,
        &options,
        &mut Progress::new(&mut listen),
    )?;
    eprintln!(
        "[{:6.1} s] done, cached: {}",
        begin.elapsed().as_secs_f64(),
        built.cached
    );
    println!(
        "{}\n{}",
        built.image.digest,
        String::from_utf8(built.image.manifest.to_bytes())?
    );
    Ok(())
}
