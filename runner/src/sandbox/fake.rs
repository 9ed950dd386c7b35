//! A recording, scripted [`Sandbox`] with files in memory, for unit tests of the executor.
//!
//! A test says what each process shall do, in order ([`FakeSandbox::reply`]) or by a function that
//! sees the request and the files ([`FakeSandbox::on_exec`]: so a step can "write" `GITHUB_ENV`),
//! and afterwards asks what was started and with which environment.

use std::{
    collections::{BTreeMap, VecDeque},
    io::Read,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::mpsc,
};

use crate::egress::proxy::Egress;

use super::{Exec, ExecEvent, ExecInput, ExecRequest, ExecStatus, Sandbox, SandboxError};

/// Files of the fake by absolute path: mode and content. Directories exist by their files.
pub type Files = BTreeMap<String, (u32, Vec<u8>)>;

/// What a started process does, step by step.
#[derive(Debug, Clone, Default)]
pub struct Reply {
    steps: Vec<ReplyStep>,
}

#[derive(Debug, Clone)]
enum ReplyStep {
    Event(ExecEvent),
    Sleep(Duration),
    UntilSignal,
    Lose,
    Refuse(String),
}

impl Reply {
    /// A process that says nothing and ends with `code`.
    #[must_use]
    pub fn exit(code: i32) -> Self {
        Self::default().then_exit(code)
    }

    /// A process that writes `text` to standard output; say next how it ends.
    #[must_use]
    pub fn stdout(text: impl Into<Vec<u8>>) -> Self {
        Self::default().then_stdout(text)
    }

    /// A process that the guest cannot start.
    #[must_use]
    pub fn refuse(why: &str) -> Self {
        Self::default().then(ReplyStep::Refuse(why.to_owned()))
    }

    /// A process that runs until it is sent a signal, and ends by it.
    #[must_use]
    pub fn until_signal() -> Self {
        Self::default().then_until_signal()
    }

    /// Writes to standard output.
    #[must_use]
    pub fn then_stdout(self, text: impl Into<Vec<u8>>) -> Self {
        self.then(ReplyStep::Event(ExecEvent::Stdout(text.into())))
    }

    /// Writes to standard error.
    #[must_use]
    pub fn then_stderr(self, text: impl Into<Vec<u8>>) -> Self {
        self.then(ReplyStep::Event(ExecEvent::Stderr(text.into())))
    }

    /// Pauses (tokio's clock, which a test may stop).
    #[must_use]
    pub fn then_sleep(self, time: Duration) -> Self {
        self.then(ReplyStep::Sleep(time))
    }

    /// Waits for a signal and ends by it.
    #[must_use]
    pub fn then_until_signal(self) -> Self {
        self.then(ReplyStep::UntilSignal)
    }

    /// Ends with an exit code.
    #[must_use]
    pub fn then_exit(self, code: i32) -> Self {
        self.then(ReplyStep::Event(ExecEvent::Exited(ExecStatus::Code(code))))
    }

    /// The sandbox dies: the stream of events closes without an exit.
    #[must_use]
    pub fn then_lose(self) -> Self {
        self.then(ReplyStep::Lose)
    }

    fn then(mut self, step: ReplyStep) -> Self {
        self.steps.push(step);
        self
    }
}

type Script = Box<dyn FnMut(&ExecRequest, &mut Files) -> Option<Reply> + Send>;

#[derive(Default)]
struct State {
    files: Files,
    execs: Vec<ExecRequest>,
    inputs: Vec<Vec<ExecInput>>,
    abandoned: Vec<usize>,
    replies: VecDeque<Reply>,
    script: Option<Script>,
}

/// The fake; clones share one state, so a test keeps one and gives one away.
#[derive(Clone, Default)]
pub struct FakeSandbox {
    state: Arc<Mutex<State>>,
    egress: Option<Egress>,
}

impl std::fmt::Debug for FakeSandbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FakeSandbox").finish_non_exhaustive()
    }
}

impl FakeSandbox {
    /// A sandbox without files in which every process ends with 0 at once.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The same sandbox with a network.
    #[must_use]
    pub fn with_egress(&self, egress: Egress) -> Self {
        Self {
            state: Arc::clone(&self.state),
            egress: Some(egress),
        }
    }

    /// Queues what the next process without a reply from [`Self::on_exec`] does.
    pub fn reply(&self, reply: Reply) {
        self.lock().replies.push_back(reply);
    }

    /// Asks `script` at each start; it sees the request and may change files. On `None` the queue
    /// of [`Self::reply`] decides.
    pub fn on_exec(
        &self,
        script: impl FnMut(&ExecRequest, &mut Files) -> Option<Reply> + Send + 'static,
    ) {
        self.lock().script = Some(Box::new(script));
    }

    /// All processes that were asked for, in order.
    #[must_use]
    pub fn execs(&self) -> Vec<ExecRequest> {
        self.lock().execs.clone()
    }

    /// What was sent to the process with this index in [`Self::execs`].
    #[must_use]
    pub fn inputs(&self, exec: usize) -> Vec<ExecInput> {
        self.lock().inputs.get(exec).cloned().unwrap_or_default()
    }

    /// Indexes of processes whose [`Exec`] was dropped before they ended: a guest kills those.
    #[must_use]
    pub fn abandoned(&self) -> Vec<usize> {
        self.lock().abandoned.clone()
    }

    /// Puts a file there.
    pub fn put(&self, path: &str, content: impl Into<Vec<u8>>) {
        self.lock()
            .files
            .insert(path.to_owned(), (0o644, content.into()));
    }

    /// A file's content.
    #[must_use]
    pub fn get(&self, path: &str) -> Option<Vec<u8>> {
        self.lock().files.get(path).map(|(_, c)| c.clone())
    }

    /// All files.
    #[must_use]
    pub fn files(&self) -> Files {
        self.lock().files.clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A test that panicked elsewhere shall fail there, not here.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn start(&self, request: ExecRequest) -> (usize, Reply) {
        let mut state = self.lock();
        let state = &mut *state;
        let scripted = state
            .script
            .as_mut()
            .and_then(|script| script(&request, &mut state.files));
        let reply = scripted
            .or_else(|| state.replies.pop_front())
            .unwrap_or_else(|| Reply::exit(0));
        state.execs.push(request);
        state.inputs.push(Vec::new());
        (state.execs.len() - 1, reply)
    }

    /// Plays `reply`; whatever arrives meanwhile is recorded.
    async fn play(
        self,
        index: usize,
        reply: Reply,
        events: mpsc::Sender<ExecEvent>,
        mut input: mpsc::Receiver<ExecInput>,
    ) {
        for step in reply.steps {
            match step {
                ReplyStep::Event(event) => {
                    self.record_ready(index, &mut input);
                    if events.send(event).await.is_err() {
                        return self.lock().abandoned.push(index);
                    }
                }
                ReplyStep::Sleep(time) => tokio::select! {
                    () = tokio::time::sleep(time) => {}
                    () = events.closed() => return self.lock().abandoned.push(index),
                },
                ReplyStep::UntilSignal => {
                    let signal = tokio::select! {
                        signal = self.wait_signal(index, &mut input) => signal,
                        () = events.closed() => None,
                    };
                    let Some(signal) = signal else {
                        return self.lock().abandoned.push(index);
                    };
                    let exited = ExecEvent::Exited(ExecStatus::Signal(signal));
                    // The reader may be gone by now, as a guest may be: nothing is left to do.
                    let _ = events.send(exited).await;
                    return;
                }
                ReplyStep::Lose | ReplyStep::Refuse(_) => return,
            }
        }
        // The process is over, but its input stays writable until the reader drops it, as it is
        // with a real guest; record what comes.
        while let Some(item) = input.recv().await {
            self.lock().inputs[index].push(item);
        }
    }

    fn record_ready(&self, index: usize, input: &mut mpsc::Receiver<ExecInput>) {
        while let Ok(item) = input.try_recv() {
            self.lock().inputs[index].push(item);
        }
    }

    async fn wait_signal(
        &self,
        index: usize,
        input: &mut mpsc::Receiver<ExecInput>,
    ) -> Option<i32> {
        while let Some(item) = input.recv().await {
            self.lock().inputs[index].push(item.clone());
            if let ExecInput::Signal(signal) = item {
                return Some(signal);
            }
        }
        None
    }
}

impl Sandbox for FakeSandbox {
    fn egress(&self) -> Option<&Egress> {
        self.egress.as_ref()
    }

    async fn exec(&self, request: ExecRequest) -> Result<Exec, SandboxError> {
        let what = request.argv.first().cloned().unwrap_or_default();
        let (index, reply) = self.start(request);
        if let Some(ReplyStep::Refuse(why)) = reply.steps.first() {
            let why = why.clone();
            return Err(SandboxError::Refused { what, why });
        }
        let (event_sender, events) = mpsc::channel(16);
        let (input, input_receiver) = mpsc::channel(16);
        tokio::spawn(
            self.clone()
                .play(index, reply, event_sender, input_receiver),
        );
        // They arrive where the others do: nothing is ever in their way here.
        let (signals, mut urgent) = mpsc::channel(16);
        let others = input.downgrade();
        tokio::spawn(async move {
            while let (Some(signal), Some(input)) = (urgent.recv().await, others.upgrade()) {
                let _ = input.send(ExecInput::Signal(signal)).await;
            }
        });
        Ok(Exec {
            events,
            input,
            signals,
        })
    }

    async fn write_file(&self, path: &str, mode: u32, content: &[u8]) -> Result<(), SandboxError> {
        let mut state = self.lock();
        state
            .files
            .insert(path.to_owned(), (mode, content.to_owned()));
        Ok(())
    }

    async fn read_file(&self, path: &str, limit: u64) -> Result<Option<Vec<u8>>, SandboxError> {
        match self.get(path) {
            Some(content) if content.len() as u64 > limit => Err(SandboxError::TooLarge {
                path: path.to_owned(),
                limit,
            }),
            found => Ok(found),
        }
    }

    async fn copy_in(
        &self,
        directory: &str,
        mut tar: impl AsyncRead + Send + Unpin,
    ) -> Result<(), SandboxError> {
        let mut bytes = Vec::new();
        tar.read_to_end(&mut bytes).await?;
        for entry in tar::Archive::new(&bytes[..]).entries()? {
            let mut entry = entry?;
            if !entry.header().entry_type().is_file() {
                continue;
            }
            let path = format!(
                "{}/{}",
                directory.trim_end_matches('/'),
                entry.path()?.display()
            );
            let mut content = Vec::new();
            entry.read_to_end(&mut content)?;
            let mode = entry.header().mode()?;
            self.lock().files.insert(path, (mode, content));
        }
        Ok(())
    }

    async fn copy_out(
        &self,
        path: &str,
        mut sink: impl AsyncWrite + Send + Unpin,
    ) -> Result<(), SandboxError> {
        let archive = pack(path, &self.files())?;
        sink.write_all(&archive).await?;
        sink.shutdown().await?;
        Ok(())
    }

    async fn remove(&self, path: &str) -> Result<(), SandboxError> {
        let below = format!("{}/", path.trim_end_matches('/'));
        self.lock()
            .files
            .retain(|name, _| name != path && !name.starts_with(&below));
        Ok(())
    }
}

/// A tar archive of the file `path` (under its last name) or of all below the directory `path`.
fn pack(path: &str, files: &Files) -> Result<Vec<u8>, SandboxError> {
    let below = format!("{}/", path.trim_end_matches('/'));
    let mut builder = tar::Builder::new(Vec::new());
    let mut found = false;
    for (name, (mode, content)) in files {
        let inside = if name == path {
            name.rsplit('/').next()
        } else {
            name.strip_prefix(&below)
        };
        let Some(inside) = inside else { continue };
        found = true;
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(*mode);
        builder.append_data(&mut header, inside, &content[..])?;
    }
    if !found {
        return Err(SandboxError::Refused {
            what: format!("copying {path} out"),
            why: "no such file or directory".to_owned(),
        });
    }
    Ok(builder.into_inner()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(program: &str) -> ExecRequest {
        ExecRequest {
            argv: vec![program.to_owned()],
            ..ExecRequest::default()
        }
    }

    async fn collect(mut exec: Exec) -> Vec<ExecEvent> {
        let mut events = Vec::new();
        while let Some(event) = exec.events.recv().await {
            let last = matches!(event, ExecEvent::Exited(_));
            events.push(event);
            if last {
                break;
            }
        }
        events
    }

    #[tokio::test]
    async fn plays_queued_replies_in_order_and_records_requests() {
        let fake = FakeSandbox::new();
        fake.reply(Reply::stdout("a").then_stderr("b").then_exit(3));
        let first = collect(fake.exec(request("one")).await.expect("starts")).await;
        let second = collect(fake.exec(request("two")).await.expect("starts")).await;
        assert_eq!(
            first,
            [
                ExecEvent::Stdout(b"a".to_vec()),
                ExecEvent::Stderr(b"b".to_vec()),
                ExecEvent::Exited(ExecStatus::Code(3)),
            ]
        );
        assert_eq!(second, [ExecEvent::Exited(ExecStatus::Code(0))]);
        assert_eq!(fake.execs(), [request("one"), request("two")]);
    }

    #[tokio::test]
    async fn script_sees_the_request_and_writes_files() {
        let fake = FakeSandbox::new();
        fake.on_exec(|request, files| {
            files.insert(request.argv[0].clone(), (0o600, b"x".to_vec()));
            Some(Reply::refuse("no such program"))
        });
        let refused = fake.exec(request("/f")).await;
        assert!(matches!(refused, Err(SandboxError::Refused { what, .. }) if what == "/f"));
        assert_eq!(fake.get("/f").as_deref(), Some(&b"x"[..]));
    }

    #[tokio::test]
    async fn a_waiting_process_ends_by_the_signal_it_is_sent() {
        let fake = FakeSandbox::new();
        fake.reply(Reply::until_signal());
        let exec = fake.exec(request("sleep")).await.expect("starts");
        exec.input.send(ExecInput::Signal(2)).await.expect("runs");
        let events = collect(exec).await;
        assert_eq!(events, [ExecEvent::Exited(ExecStatus::Signal(2))]);
        assert_eq!(fake.inputs(0), [ExecInput::Signal(2)]);
    }

    #[tokio::test]
    async fn dropping_a_waiting_process_is_recorded() {
        let fake = FakeSandbox::new();
        fake.reply(Reply::until_signal());
        drop(fake.exec(request("sleep")).await.expect("starts"));
        while fake.abandoned().is_empty() {
            tokio::task::yield_now().await;
        }
        assert_eq!(fake.abandoned(), [0]);
    }

    #[tokio::test]
    async fn a_lost_sandbox_closes_the_events_without_an_exit() {
        let fake = FakeSandbox::new();
        fake.reply(Reply::stdout("x").then_lose());
        let events = collect(fake.exec(request("p")).await.expect("starts")).await;
        assert_eq!(events, [ExecEvent::Stdout(b"x".to_vec())]);
    }

    #[tokio::test]
    async fn copied_out_tree_is_the_tree_copied_in() {
        let fake = FakeSandbox::new();
        fake.put("/src/a", "1");
        fake.put("/src/d/b", "2");
        fake.put("/srcx", "3");
        let mut archive = Vec::new();
        fake.copy_out("/src", &mut archive).await.expect("packs");
        fake.copy_in("/dst", &archive[..]).await.expect("unpacks");
        assert_eq!(fake.get("/dst/a").as_deref(), Some(&b"1"[..]));
        assert_eq!(fake.get("/dst/d/b").as_deref(), Some(&b"2"[..]));
        fake.remove("/src").await.expect("removes");
        assert_eq!(
            fake.files().keys().collect::<Vec<_>>(),
            ["/dst/a", "/dst/d/b", "/srcx"]
        );
        let limited = fake.read_file("/srcx", 0).await;
        assert!(matches!(limited, Err(SandboxError::TooLarge { .. })));
    }
}
