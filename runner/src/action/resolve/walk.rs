//! The walk over all files, level by level: what one level names is resolved at the same time.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::task::{JoinSet, spawn_blocking};

use super::graph::{Entry, Graph, Mention, Offender, Pin, Wrong};
use super::pins::Failure;
use super::read::{Bytes, Read};
use super::shape::Shape;
use super::{MAX_ENTRIES, Progress, Resolver, Root, local};
use crate::action::bytes::ActionBytes;
use crate::action::find::{Found, Target};
use crate::action::image::ImageReference;
use crate::action::lockfile::PinKey;
use crate::action::reference::{
    ActionKey, Reference, ReferenceError, RepositoryName, RepositoryReference,
};

/// How many entries are fetched, and files read, at the same time.
const AT_ONCE: usize = 6;

/// Where a file lies.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Home {
    Checkout,
    Repository(ActionKey),
}

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    Action,
    Workflow,
}

/// An action or a workflow that others lead to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Node {
    home: Home,
    kind: Kind,
    path: String,
}

/// What is to be resolved for an entry.
#[derive(Clone, Debug)]
enum Wanted {
    Action(RepositoryName, ActionKey),
    Image(ImageReference),
    Local(String),
}

pub(super) struct Walk<'a> {
    resolver: &'a Resolver,
    nodes: Vec<Node>,
    index: HashMap<Node, usize>,
    shape: Shape,
    /// The keys that each node names.
    uses: Vec<BTreeSet<PinKey>>,
    entries: BTreeMap<PinKey, Entry>,
    failures: BTreeMap<PinKey, Failure>,
    offenders: Vec<Offender>,
    /// Entries of this level.
    wanted: Vec<(PinKey, Wanted)>,
    /// Nodes of the next level.
    next: Vec<usize>,
    /// What the person gave instead of what a reference stands for.
    given: HashMap<ActionKey, Arc<dyn ActionBytes>>,
    full: bool,
}

impl<'a> Walk<'a> {
    pub(super) fn new(resolver: &'a Resolver) -> Self {
        Self {
            resolver,
            nodes: Vec::new(),
            index: HashMap::new(),
            shape: Shape::default(),
            uses: Vec::new(),
            entries: BTreeMap::new(),
            failures: BTreeMap::new(),
            offenders: Vec::new(),
            wanted: Vec::new(),
            next: Vec::new(),
            given: HashMap::new(),
            full: false,
        }
    }

    pub(super) async fn run(mut self, roots: Vec<Root>) -> Graph {
        let mut level: Vec<(usize, Vec<Read>)> = Vec::new();
        let mut starts = Vec::new();
        for Root { file, found } in roots {
            let node = Node {
                home: Home::Checkout,
                kind: Kind::Workflow,
                path: file.clone(),
            };
            let at = self.node(node, None);
            starts.push((file.clone(), at));
            level.push((at, vec![Read { path: file, found }]));
        }
        self.next.clear();
        for depth in 0.. {
            for (at, reads) in level {
                for read in reads {
                    let file = self.label(at, &read.path);
                    for found in read.found {
                        self.found(at, depth, &file, &found);
                    }
                }
            }
            self.resolve().await;
            if self.resolver.offline {
                self.used_by_lock(depth);
                self.resolve().await;
            }
            level = self.read().await;
            if level.is_empty() {
                break;
            }
        }
        self.finish(&starts)
    }

    /// How messages call a file of a node.
    fn label(&self, at: usize, path: &str) -> String {
        match &self.nodes[at].home {
            Home::Checkout => path.to_owned(),
            Home::Repository(key) => format!("{key}:{path}"),
        }
    }

    /// The number of a node; a new one is read on the next level.
    fn node(&mut self, node: Node, mention: Option<Mention>) -> usize {
        if let Some(at) = self.index.get(&node) {
            return *at;
        }
        let at = self.nodes.len();
        self.shape.add(node.kind, mention);
        self.uses.push(BTreeSet::new());
        self.index.insert(node.clone(), at);
        self.nodes.push(node);
        self.next.push(at);
        at
    }

    fn offend(&mut self, wrong: Wrong, mention: Mention, message: impl Into<String>) {
        let Failure { wrong, message } = Failure::new(wrong, message);
        self.offenders.push(Offender {
            wrong,
            mention,
            message,
        });
    }

    /// Takes one reference of a file.
    fn found(&mut self, at: usize, depth: usize, file: &str, found: &Found) {
        let mention = Mention {
            file: file.to_owned(),
            line: found.line,
            column: found.column,
            text: found.text.clone(),
        };
        let home = self.nodes[at].home.clone();
        let (reference, kind) = match &found.target {
            Err(error) => {
                let wrong = match error {
                    ReferenceError::Expression(_) => Wrong::Later,
                    _ => Wrong::Unverifiable,
                };
                return self.offend(wrong, mention, error.to_string());
            }
            Ok(Target::Use(reference)) => (reference, Kind::Action),
            Ok(Target::Call(reference)) => (reference, Kind::Workflow),
            Ok(Target::Dockerfile(_)) => return,
        };
        match reference {
            Reference::Image(_) if kind == Kind::Workflow => {
                self.offend(
                    Wrong::Unverifiable,
                    mention,
                    "a job can call no image; name a workflow",
                );
            }
            Reference::Image(image) => {
                let key = PinKey::Image(image.lock_key());
                self.entry(at, depth, key, Wanted::Image(image.clone()), mention);
            }
            Reference::Repository(reference) => {
                self.repository(at, depth, kind, reference, mention);
            }
            // What a step means is the workspace, whoever says it; what a job calls lies beside it.
            Reference::Local(path) if kind == Kind::Action => {
                self.beside(at, depth, Home::Checkout, kind, path, mention);
            }
            Reference::Local(path) | Reference::Own(path) => {
                self.beside(at, depth, home, kind, path, mention);
            }
        }
    }

    fn repository(
        &mut self,
        at: usize,
        depth: usize,
        kind: Kind,
        reference: &RepositoryReference,
        mention: Mention,
    ) {
        if reference.is_workflow() != (kind == Kind::Workflow) {
            let message = match kind {
                Kind::Action => "a step cannot use a workflow; call it from a job",
                Kind::Workflow => {
                    "a job can call only `owner/repository/.github/workflows/file.yml@ref`"
                }
            };
            return self.offend(Wrong::Unverifiable, mention, message);
        }
        let key = reference.key();
        if let Ok(bytes) = self.resolver.given.find(reference) {
            self.given.insert(key.clone(), bytes);
            let (home, path) = (Home::Repository(key), reference.path.clone());
            let child = self.node(Node { home, kind, path }, Some(mention));
            return self.shape.edge(at, child);
        }
        let wanted = Wanted::Action(reference.repository.clone(), key.clone());
        let pin = PinKey::Action(key.clone());
        if !self.entry(at, depth, pin, wanted, mention.clone()) {
            return;
        }
        let (home, path) = (Home::Repository(key), reference.path.clone());
        let child = self.node(Node { home, kind, path }, Some(mention));
        self.shape.edge(at, child);
    }

    /// Something of the same repository.
    fn beside(
        &mut self,
        at: usize,
        depth: usize,
        home: Home,
        kind: Kind,
        path: &str,
        mention: Mention,
    ) {
        if home == Home::Checkout && kind == Kind::Action {
            let (key, wanted) = (
                PinKey::Local(path.to_owned()),
                Wanted::Local(path.to_owned()),
            );
            if !self.entry(at, depth, key, wanted, mention.clone()) {
                return;
            }
        }
        let path = path.to_owned();
        let child = self.node(Node { home, kind, path }, Some(mention));
        self.shape.edge(at, child);
    }

    /// Notes that a node names an entry; `false` if there are too many.
    fn entry(
        &mut self,
        at: usize,
        depth: usize,
        key: PinKey,
        wanted: Wanted,
        mention: Mention,
    ) -> bool {
        if !self.entries.contains_key(&key) {
            if self.entries.len() == MAX_ENTRIES {
                if !std::mem::replace(&mut self.full, true) {
                    let message = format!(
                        "there are more than {MAX_ENTRIES} actions, workflows and images behind these files"
                    );
                    self.offend(Wrong::Unverifiable, mention, message);
                }
                return false;
            }
            let entry = Entry {
                pin: None,
                mentions: Vec::new(),
                uses: Vec::new(),
                depth,
            };
            self.entries.insert(key.clone(), entry);
            self.wanted.push((key.clone(), wanted));
        }
        if let Some(entry) = self.entries.get_mut(&key)
            && !entry.mentions.contains(&mention)
        {
            entry.mentions.push(mention);
        }
        self.uses[at].insert(key);
        true
    }

    /// Resolves the entries of a level, some at the same time.
    async fn resolve(&mut self) {
        let permits = Arc::new(Semaphore::new(AT_ONCE));
        let mut running = JoinSet::new();
        for (key, wanted) in std::mem::take(&mut self.wanted) {
            let (resolver, permits) = (self.resolver.clone(), Arc::clone(&permits));
            running.spawn(async move {
                // Nobody closes the semaphore.
                let _permit = permits.acquire().await;
                let pin = resolver.pin(wanted).await;
                (key, pin)
            });
        }
        let mut done = self.entries.len() - running.len();
        while let Some(resolved) = running.join_next().await {
            let Ok((key, pin)) = resolved else { continue };
            done += 1;
            if let Some(progress) = &self.resolver.progress {
                let (name, known) = (key.to_string(), self.entries.len());
                progress(&Progress { name, done, known });
            }
            match pin {
                Ok(pin) => {
                    if let Some(entry) = self.entries.get_mut(&key) {
                        entry.pin = Some(pin);
                    }
                }
                Err(failure) => {
                    self.failures.insert(key, failure);
                }
            }
        }
    }

    /// Takes what the lock says that the actions and workflows of the next level use, to the end.
    fn used_by_lock(&mut self, depth: usize) {
        let Some(lock) = self.resolver.locks.companion.clone() else {
            return;
        };
        for at in self.next.clone() {
            let (Home::Repository(key), Some(mention)) =
                (self.nodes[at].home.clone(), self.shape.mention(at))
            else {
                continue;
            };
            let mut open = lock.uses(&PinKey::Action(key));
            while let Some(key) = open.pop() {
                if !self.uses[at].contains(&key)
                    && let Some(wanted) = wanted(&key)
                {
                    open.extend(lock.uses(&key));
                    self.entry(at, depth + 1, key, wanted, mention.clone());
                }
            }
        }
    }

    /// Reads the files of the next level.
    async fn read(&mut self) -> Vec<(usize, Vec<Read>)> {
        let permits = Arc::new(Semaphore::new(AT_ONCE));
        let mut running = JoinSet::new();
        for at in std::mem::take(&mut self.next) {
            let Node { home, kind, path } = self.nodes[at].clone();
            let Some(bytes) = self.bytes(&home) else {
                continue;
            };
            let (resolver, permits) = (self.resolver.clone(), Arc::clone(&permits));
            running.spawn(async move {
                let _permit = permits.acquire().await;
                let reading = spawn_blocking(move || match kind {
                    Kind::Action => resolver.read_action(&bytes, &path),
                    Kind::Workflow => resolver.read_workflow(&bytes, &path),
                });
                (at, reading.await)
            });
        }
        let mut read = Vec::new();
        while let Some(done) = running.join_next().await {
            match done {
                Ok((at, Ok(Ok(reads)))) => read.push((at, reads)),
                Ok((at, Ok(Err(failure)))) => {
                    if let Some(mention) = self.shape.mention(at) {
                        self.offend(failure.wrong, mention, failure.message);
                    }
                }
                Ok((at, Err(_))) => {
                    if let Some(mention) = self.shape.mention(at) {
                        let message = "reading it was broken off; run the command again";
                        self.offend(Wrong::Unreachable, mention, message);
                    }
                }
                Err(_) => {}
            }
        }
        read.sort_by_key(|(at, _)| *at);
        read
    }

    /// Where a home's files are; nothing for an entry without a pin, which is an offender itself.
    fn bytes(&self, home: &Home) -> Option<Bytes> {
        match home {
            Home::Repository(_) if self.resolver.offline => None,
            Home::Checkout => Some(Bytes::Checkout),
            Home::Repository(key) => {
                if let Some(given) = self.given.get(key) {
                    return Some(Bytes::Given(Arc::clone(given)));
                }
                let entry = self.entries.get(&PinKey::Action(key.clone()))?;
                let pin = entry.pin.as_ref()?.action()?;
                Some(Bytes::Stored(pin.content))
            }
        }
    }

    fn finish(mut self, starts: &[(String, usize)]) -> Graph {
        for (key, failure) in std::mem::take(&mut self.failures) {
            let mentions = self.entries.get(&key).map(|entry| entry.mentions.clone());
            for mention in mentions.unwrap_or_default() {
                self.offend(failure.wrong, mention, failure.message.clone());
            }
        }
        for (mention, message) in self.shape.offenders() {
            self.offend(Wrong::Unverifiable, mention, message);
        }
        for (at, node) in self.nodes.iter().enumerate() {
            let owner = match (&node.home, node.kind) {
                (Home::Repository(key), _) => PinKey::Action(key.clone()),
                (Home::Checkout, Kind::Action) => PinKey::Local(node.path.clone()),
                (Home::Checkout, Kind::Workflow) => continue,
            };
            if let Some(entry) = self.entries.get_mut(&owner) {
                let mut uses: BTreeSet<PinKey> = entry.uses.drain(..).collect();
                uses.extend(self.uses[at].iter().filter(|key| **key != owner).cloned());
                entry.uses = uses.into_iter().collect();
            }
        }
        let mut roots = BTreeMap::new();
        for (file, at) in starts {
            let reached = self.shape.reached(*at);
            let keys: BTreeSet<PinKey> = reached
                .into_iter()
                .flat_map(|at| self.uses[at].iter().cloned())
                .collect();
            roots.insert(file.clone(), keys.into_iter().collect());
        }
        self.offenders
            .sort_by(|a, b| (&a.mention, a.wrong).cmp(&(&b.mention, b.wrong)));
        self.offenders.dedup();
        for entry in self.entries.values_mut() {
            entry.mentions.sort();
        }
        Graph {
            entries: self.entries,
            roots,
            offenders: self.offenders,
        }
    }
}

/// What a key of the lock asks for.
fn wanted(key: &PinKey) -> Option<Wanted> {
    match key {
        PinKey::Action(key) => Some(Wanted::Action(key.parts().0, key.clone())),
        PinKey::Image(name) => ImageReference::parse(name).ok().map(Wanted::Image),
        PinKey::Local(path) => Some(Wanted::Local(path.clone())),
    }
}

impl Resolver {
    async fn pin(&self, wanted: Wanted) -> Result<Pin, Failure> {
        match wanted {
            Wanted::Action(repository, key) => {
                self.action(&repository, &key).await.map(Pin::Action)
            }
            Wanted::Image(image) => self.image(&image).await.map(Pin::Image),
            Wanted::Local(path) => self.folder(path).await.map(Pin::Local),
        }
    }

    async fn folder(
        &self,
        path: String,
    ) -> Result<Option<crate::action::digest::ContentDigest>, Failure> {
        let checkout = self.checkout.clone().ok_or_else(|| {
            let message =
                format!("`./{path}` lies in a checkout, and this is none; run the command in one");
            Failure::new(Wrong::Later, message)
        })?;
        let name = path.clone();
        let digest = spawn_blocking(move || local::digest(&checkout, &path)).await;
        let failed = |why: String| {
            Failure::new(
                Wrong::Unverifiable,
                format!("the folder `{name}` cannot be read: {why}"),
            )
        };
        match digest {
            Ok(digest) => digest.map_err(|error| failed(error.to_string())),
            Err(_) => Err(failed(
                "it was broken off; run the command again".to_owned(),
            )),
        }
    }
}
