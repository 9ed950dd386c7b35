//! Where a workflow file or an action's manifest says `uses:` or names an image, byte for byte.
//!
//! Read from the YAML itself, not from the model: a file may hold what Mayfly does not run, and its
//! references are followed and pinned all the same.

use std::ops::Range;

use super::diagnostic::Severity;
use super::load::{LoadError, rejected};
use super::source::{Place, Source};
use super::yaml::{self, Node, NodeValue, Scalar};

/// What a mention is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// `uses:` of a step.
    Step,
    /// `uses:` of a job: a reusable workflow.
    Call,
    /// The image of `container:` or of a service.
    Container,
    /// `image:` of a container action: a Dockerfile or `docker://image`.
    ActionImage,
}

/// A place that names an action, a workflow or an image.
#[derive(Clone, Debug)]
pub(crate) struct Mention {
    pub role: Role,
    /// What stands there, without quotes.
    pub text: String,
    pub place: Place,
    /// The bytes of the text in the file, where they are the text itself: a text with escapes or over
    /// several lines has none.
    pub span: Option<Range<usize>>,
}

/// The mentions of a workflow file in the order of the file.
pub(crate) fn in_workflow(source: &Source) -> Result<Vec<Mention>, LoadError> {
    let root = read(source)?;
    let mut found = Finder::new(source);
    for (_, job) in entries(get(&root, "jobs")) {
        found.scalar(Role::Call, get(job, "uses"));
        found.steps(get(job, "steps"));
        found.image(job, get(job, "container"));
        for (_, service) in entries(get(job, "services")) {
            found.image(job, Some(service));
        }
    }
    Ok(found.sorted())
}

/// The mentions of an action's manifest.
pub(crate) fn in_action(source: &Source) -> Result<Vec<Mention>, LoadError> {
    let root = read(source)?;
    let mut found = Finder::new(source);
    if let Some(runs) = get(&root, "runs") {
        found.steps(get(runs, "steps"));
        let using = get(runs, "using").and_then(text);
        if using.is_some_and(|using| using.eq_ignore_ascii_case("docker")) {
            found.scalar(Role::ActionImage, get(runs, "image"));
        }
    }
    Ok(found.sorted())
}

/// Whether two texts are the same YAML but for one set of scalars: what a rewrite must keep.
pub(crate) fn same_but(old: &Source, new: &Source, changed: &dyn Fn(&str, &str) -> bool) -> bool {
    match (read(old), read(new)) {
        (Ok(old), Ok(new)) => same(&old, &new, changed),
        _ => false,
    }
}

fn same(old: &Node, new: &Node, changed: &dyn Fn(&str, &str) -> bool) -> bool {
    match (&old.value, &new.value) {
        (NodeValue::Scalar(Scalar::String(old)), NodeValue::Scalar(Scalar::String(new))) => {
            old == new || changed(old, new)
        }
        (NodeValue::Scalar(old), NodeValue::Scalar(new)) => {
            let nan = |scalar: &Scalar| matches!(scalar, Scalar::Number(n) if n.is_nan());
            old == new || (nan(old) && nan(new))
        }
        (NodeValue::Sequence(old), NodeValue::Sequence(new)) => {
            old.len() == new.len()
                && old
                    .iter()
                    .zip(new)
                    .all(|(old, new)| same(old, new, changed))
        }
        (NodeValue::Mapping(old), NodeValue::Mapping(new)) => {
            let kept = |_: &str, _: &str| false;
            let mut pairs = old.iter().zip(new);
            old.len() == new.len()
                && pairs
                    .all(|(old, new)| same(&old.0, &new.0, &kept) && same(&old.1, &new.1, changed))
        }
        _ => false,
    }
}

fn read(source: &Source) -> Result<std::sync::Arc<Node>, LoadError> {
    let mut findings = Vec::new();
    match yaml::read(source, &mut findings) {
        Ok(root)
            if findings
                .iter()
                .all(|finding| finding.severity != Severity::Error) =>
        {
            Ok(root)
        }
        Ok(_) => Err(rejected(source.clone(), findings)),
        Err(finding) => Err(rejected(source.clone(), vec![finding])),
    }
}

fn entries(node: Option<&Node>) -> impl Iterator<Item = (&Node, &Node)> {
    let entries = match node.map(|node| &node.value) {
        Some(NodeValue::Mapping(entries)) => entries.as_slice(),
        _ => &[],
    };
    entries.iter().map(|(key, value)| (&**key, &**value))
}

fn items(node: Option<&Node>) -> impl Iterator<Item = &Node> {
    let items = match node.map(|node| &node.value) {
        Some(NodeValue::Sequence(items)) => items.as_slice(),
        _ => &[],
    };
    items.iter().map(|item| &**item)
}

fn text(node: &Node) -> Option<&str> {
    match &node.value {
        NodeValue::Scalar(Scalar::String(text)) => Some(text),
        _ => None,
    }
}

/// The value of a key, case ignored.
fn get<'a>(node: &'a Node, key: &str) -> Option<&'a Node> {
    let same = |name: &Node| text(name).is_some_and(|name| name.eq_ignore_ascii_case(key));
    entries(Some(node))
        .find(|(name, _)| same(name))
        .map(|(_, value)| value)
}

struct Finder<'a> {
    source: &'a Source,
    found: Vec<Mention>,
}

impl<'a> Finder<'a> {
    fn new(source: &'a Source) -> Self {
        let found = Vec::new();
        Self { source, found }
    }

    fn steps(&mut self, steps: Option<&Node>) {
        for step in items(steps) {
            self.scalar(Role::Step, get(step, "uses"));
            self.steps(get(step, "parallel"));
        }
    }

    fn scalar(&mut self, role: Role, node: Option<&Node>) {
        let Some(node) = node else { return };
        let text = match &node.value {
            NodeValue::Scalar(Scalar::Null) => return,
            NodeValue::Scalar(scalar) => scalar.to_text(),
            _ => return,
        };
        // Blocks end in a line break.
        let text = text.trim().to_owned();
        // A value that an alias repeats stands in the file once.
        if text.is_empty() || self.found.iter().any(|other| other.place == node.place) {
            return;
        }
        let span = span(self.source, node.place, &text);
        self.found.push(Mention {
            role,
            text,
            place: node.place,
            span,
        });
    }

    /// The image of `container:` or of a service: a name, or a mapping that has `image`.
    fn image(&mut self, job: &Node, node: Option<&Node>) {
        let Some(node) = node else { return };
        let image = match &node.value {
            NodeValue::Mapping(_) => get(node, "image"),
            _ => Some(node),
        };
        let Some(image) = image else { return };
        match text(image).and_then(matrix_key) {
            Some(key) if self.matrix(job, key) => {}
            _ => self.scalar(Role::Container, Some(image)),
        }
    }

    /// The images that a matrix written out in the file lists under a key; none where it is made up
    /// at run time.
    fn matrix(&mut self, job: &Node, key: &str) -> bool {
        let matrix = get(job, "strategy").and_then(|strategy| get(strategy, "matrix"));
        let Some(matrix) = matrix else { return false };
        let listed = items(get(matrix, key));
        let included = items(get(matrix, "include")).filter_map(|entry| get(entry, key));
        let images: Vec<&Node> = listed.chain(included).collect();
        let spelled = [get(matrix, key), get(matrix, "include"), Some(matrix)];
        let made_up = spelled
            .into_iter()
            .flatten()
            .any(|node| text(node).is_some());
        if images.is_empty() || made_up || images.iter().any(|image| text(image).is_none()) {
            return false;
        }
        for image in images {
            self.scalar(Role::Container, Some(image));
        }
        true
    }

    fn sorted(mut self) -> Vec<Mention> {
        self.found.sort_by_key(|mention| mention.place);
        self.found
    }
}

/// `key` of `${{ matrix.key }}`.
fn matrix_key(text: &str) -> Option<&str> {
    let inner = text.strip_prefix("${{")?.strip_suffix("}}")?.trim();
    let key = inner.strip_prefix("matrix.")?;
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    key.chars().all(plain).then_some(key)
}

/// The bytes of a scalar's text, if they stand in the file as they are.
fn span(source: &Source, place: Place, text: &str) -> Option<Range<usize>> {
    let mut at = source.offset(place);
    let mut rest = source.text().get(at..)?;
    // An anchor or a tag stands before the text.
    while rest.starts_with(['&', '!']) {
        let behind = rest.find([' ', '\t'])?;
        let behind = behind + rest[behind..].find(|c| !matches!(c, ' ' | '\t'))?;
        (at, rest) = (at + behind, &rest[behind..]);
    }
    let here = |skip: usize| {
        let start = at + skip;
        let found = source.text().get(start..)?.starts_with(text);
        found.then(|| start..start + text.len())
    };
    match rest.chars().next()? {
        quote @ ('\'' | '"') => {
            let range = here(1)?;
            source.text()[range.end..]
                .starts_with(quote)
                .then_some(range)
        }
        '|' | '>' => {
            let mut start = at + rest.find(['\n', '\r'])?;
            for line in source.text()[start..].split_inclusive(['\n', '\r']) {
                let indent = line.len() - line.trim_start().len();
                if !line.trim().is_empty() {
                    let found = line.trim() == text;
                    return found.then(|| start + indent..start + indent + text.len());
                }
                start += line.len();
            }
            None
        }
        _ => here(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str, find: fn(&Source) -> Result<Vec<Mention>, LoadError>) -> Vec<String> {
        let source = Source::new("t.yml", text);
        let show = |mention: Mention| {
            let Place { line, column, .. } = mention.place;
            let bytes = mention.span.map(|span| source.text()[span].to_owned());
            let same = bytes.as_deref() == Some(mention.text.as_str());
            format!("{line}:{column} {:?} {} {same}", mention.role, mention.text)
        };
        find(&source).unwrap().into_iter().map(show).collect()
    }

    #[test]
    fn every_place_of_a_workflow_is_found_in_every_style() {
        let text = "on: push
jobs:
  a:
    container: node:20
    services:
      db: 'postgres:16'
      cache: {image: \"redis:7\", ports: [1]}
    steps:
      - &checkout
        uses: &ref actions/checkout@v4 # v4.1.0
      - uses:   'a/b@v1'
      - { name: x, uses: \"a/c@v2\", with: {uses: no/no@v1} }
      - *checkout
      - uses: *ref
      - uses: >-
          a/d@v3
      - uses: |

          a/e@v3
      - parallel:
          - uses: a/f@v1
      - uses: \"a\\u002fg@v1\"
      - USES: a/h@v1
      - run: 'uses: no/no@v1'
  b:
    uses: o/r/.github/workflows/x.yml@main
    with: {image: no}
  c:
    strategy: {matrix: {img: ['alpine:3', debian], include: [{img: ubuntu}]}}
    container: {image: '${{ matrix.img }}'}
  d:
    container: ${{ matrix.img }}
";
        let expected = [
            "4:16 Container node:20 true",
            "6:11 Container postgres:16 true",
            "7:22 Container redis:7 true",
            "10:15 Step actions/checkout@v4 true",
            "11:17 Step a/b@v1 true",
            "12:26 Step a/c@v2 true",
            "15:15 Step a/d@v3 true",
            "17:15 Step a/e@v3 true",
            "21:19 Step a/f@v1 true",
            "22:15 Step a/g@v1 false",
            "23:15 Step a/h@v1 true",
            "26:11 Call o/r/.github/workflows/x.yml@main true",
            "29:31 Container alpine:3 true",
            "29:43 Container debian true",
            "29:68 Container ubuntu true",
            "32:16 Container ${{ matrix.img }} true",
        ];
        assert_eq!(shown(text, in_workflow), expected);
    }

    #[test]
    fn an_action_has_steps_or_an_image() {
        let composite = "runs:\n  using: composite\n  steps:\n    - uses: a/b@v1\n    - run: x\n";
        assert_eq!(shown(composite, in_action), ["4:13 Step a/b@v1 true"]);
        let docker = "runs:\n  using: Docker\n  image: Dockerfile\n";
        assert_eq!(
            shown(docker, in_action),
            ["3:10 ActionImage Dockerfile true"]
        );
    }

    #[test]
    fn what_hides_references_is_refused() {
        for text in [
            "a: &x {uses: y}\njobs:\n  <<: *x\n",
            "jobs: {}\nJobs: {}\n",
            "jobs: [\n",
        ] {
            let source = Source::new("t.yml", text);
            assert!(in_workflow(&source).is_err(), "{text}");
        }
    }
}
