//! Concurrency groups within one run: of all that share a group one runs, and one waits.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::watch;

use crate::workflow::plan::Concurrency;

/// Most members that wait for one group with `queue: max`, as at GitHub.
const MAX_WAITING: usize = 100;

/// The groups of one run.
#[derive(Debug, Default)]
pub struct Groups {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    last: u64,
    /// By name in lower case: groups are not told apart by case.
    groups: HashMap<String, Group>,
}

#[derive(Debug)]
struct Group {
    holder: Member,
    waiting: VecDeque<Member>,
}

/// A job, a called workflow, or the whole run, in a group.
#[derive(Debug)]
struct Member {
    id: u64,
    /// Nothing for the whole run.
    name: Option<String>,
    /// The members that it runs inside of.
    around: Vec<u64>,
    told: watch::Sender<Told>,
}

/// What a member was told.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Told {
    Wait,
    Go,
    /// To stop, and why.
    Stop(String),
}

/// A place in a group; dropping it leaves the group.
#[derive(Debug)]
pub struct Ticket {
    groups: Arc<Groups>,
    key: String,
    /// What tells members apart.
    pub id: u64,
    told: watch::Receiver<Told>,
}

impl Groups {
    /// Enters a group for a job or called workflow called `name` (nothing for the whole run) that
    /// runs inside of the members `around`.
    ///
    /// # Errors
    /// Why it must not wait: what it would wait for waits for it.
    pub fn enter(
        self: &Arc<Self>,
        around: &[u64],
        name: Option<&str>,
        wanted: &Concurrency,
    ) -> Result<Ticket, String> {
        let mut state = self.lock();
        state.last += 1;
        let (id, key) = (state.last, wanted.group.to_lowercase());
        if let Some(holder) = state.waits_for_itself(&key, around) {
            return Err(deadlock(&wanted.group, holder, name));
        }
        let (told, receiver) = watch::channel(Told::Go);
        let member = Member {
            id,
            name: name.map(str::to_owned),
            around: around.to_vec(),
            told,
        };
        if let Some(group) = state.groups.get_mut(&key) {
            group.queue(member, wanted);
        } else {
            let group = Group {
                holder: member,
                waiting: VecDeque::new(),
            };
            state.groups.insert(key.clone(), group);
        }
        Ok(Ticket {
            groups: Arc::clone(self),
            key,
            id,
            told: receiver,
        })
    }

    fn leave(&self, key: &str, id: u64) {
        let mut state = self.lock();
        let Some(group) = state.groups.get_mut(key) else {
            return;
        };
        if group.holder.id != id {
            group.waiting.retain(|member| member.id != id);
            return;
        }
        match group.waiting.pop_front() {
            Some(next) => {
                next.told.send_replace(Told::Go);
                group.holder = next;
            }
            None => {
                state.groups.remove(key);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn deadlock(group: &str, holder: Option<&str>, name: Option<&str>) -> String {
    let holder = match holder {
        Some(name) => format!("'{name}'"),
        None => "a top level workflow".to_owned(),
    };
    let name = name.unwrap_or_default();
    format!(
        "Canceling since a deadlock was detected for concurrency group: '{group}' between {holder} and \
         '{name}'"
    )
}

impl Group {
    fn queue(&mut self, member: Member, wanted: &Concurrency) {
        let stop = Told::Stop(format!(
            "Canceling since a higher priority waiting request for {} exists",
            wanted.group
        ));
        if wanted.cancel_in_progress {
            self.holder.told.send_replace(stop.clone());
        }
        if !wanted.queue {
            for older in self.waiting.drain(..) {
                older.told.send_replace(stop.clone());
            }
        }
        if self.waiting.len() >= MAX_WAITING {
            member.told.send_replace(stop);
            return;
        }
        member.told.send_replace(Told::Wait);
        self.waiting.push_back(member);
    }
}

impl State {
    /// The name of the member around that what holds the group waits for, itself or over others.
    fn waits_for_itself(&self, key: &str, around: &[u64]) -> Option<Option<&str>> {
        let mut open: Vec<&Member> = Vec::new();
        open.extend(self.groups.get(key).map(|group| &group.holder));
        let mut seen: HashSet<u64> = open.iter().map(|member| member.id).collect();
        while let Some(member) = open.pop() {
            if around.contains(&member.id) {
                return Some(member.name.as_deref());
            }
            let is_inside =
                |other: &Member| other.id == member.id || other.around.contains(&member.id);
            for group in self.groups.values() {
                if group.waiting.iter().any(is_inside) && seen.insert(group.holder.id) {
                    open.push(&group.holder);
                }
            }
        }
        None
    }
}

impl Ticket {
    /// Returns when it is its turn.
    ///
    /// # Errors
    /// Why its turn never comes.
    pub async fn turn(&mut self) -> Result<(), String> {
        // The sender goes with the member, which was told its last by then.
        let _ = self.told.wait_for(|told| *told != Told::Wait).await;
        match &*self.told.borrow() {
            Told::Stop(why) => Err(why.clone()),
            Told::Go | Told::Wait => Ok(()),
        }
    }

    /// Returns when it is to stop, with the reason.
    pub async fn stopped(&mut self) -> String {
        let is_stop = |told: &Told| matches!(told, Told::Stop(_));
        if let Ok(told) = self.told.wait_for(is_stop).await
            && let Told::Stop(why) = &*told
        {
            return why.clone();
        }
        std::future::pending().await
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.groups.leave(&self.key, self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(group: &str) -> Concurrency {
        Concurrency {
            group: group.to_owned(),
            cancel_in_progress: false,
            queue: false,
        }
    }

    const REPLACED: &str = "Canceling since a higher priority waiting request for G exists";

    #[tokio::test]
    async fn one_runs_one_waits_and_a_newer_one_takes_its_place() {
        let groups = Arc::new(Groups::default());
        let enter = |name, group| groups.enter(&[], Some(name), &wanted(group)).unwrap();
        let (mut first, mut second) = (enter("a", "G"), enter("b", "g"));
        assert_eq!(first.turn().await, Ok(()));
        assert_eq!(*second.told.borrow(), Told::Wait);
        let mut third = enter("c", "G");
        assert_eq!(second.turn().await, Err(REPLACED.to_owned()));
        assert_eq!(*third.told.borrow(), Told::Wait);
        drop(first);
        assert_eq!(third.turn().await, Ok(()));
        drop((second, third));
        assert_eq!(enter("d", "G").turn().await, Ok(()));
    }

    #[tokio::test]
    async fn the_one_that_runs_is_cancelled_where_that_is_wanted() {
        let groups = Arc::new(Groups::default());
        let mut first = groups.enter(&[], Some("a"), &wanted("G")).unwrap();
        let settings = Concurrency {
            cancel_in_progress: true,
            ..wanted("G")
        };
        let mut second = groups.enter(&[], Some("b"), &settings).unwrap();
        assert_eq!(first.stopped().await, REPLACED);
        assert_eq!(*second.told.borrow(), Told::Wait);
        drop(first);
        assert_eq!(second.turn().await, Ok(()));
    }

    #[tokio::test]
    async fn a_queue_keeps_all_that_wait_in_order_up_to_a_bound() {
        let groups = Arc::new(Groups::default());
        let settings = Concurrency {
            queue: true,
            ..wanted("G")
        };
        let enter = |_| groups.enter(&[], Some("x"), &settings).unwrap();
        let mut tickets: Vec<_> = (0..=MAX_WAITING + 1).map(enter).collect();
        let mut last = tickets.pop().unwrap();
        assert_eq!(last.turn().await, Err(REPLACED.to_owned()));
        for mut ticket in tickets {
            assert_eq!(ticket.turn().await, Ok(()));
        }
    }

    #[test]
    fn what_would_wait_for_itself_is_refused() {
        let groups = Arc::new(Groups::default());
        let run = groups.enter(&[], None, &wanted("ci")).unwrap();
        let enter = |around: &[u64], name, group| groups.enter(around, Some(name), &wanted(group));
        assert_eq!(
            enter(&[run.id], "build", "CI").unwrap_err(),
            "Canceling since a deadlock was detected for concurrency group: 'CI' between a top level \
             workflow and 'build'"
        );
        // One inside of the holder of A waits for B; one inside of the holder of B asks for A.
        let a = enter(&[run.id], "a", "A").unwrap();
        let b = enter(&[run.id], "b", "B").unwrap();
        let inside = enter(&[run.id, a.id], "a / x", "B").unwrap();
        assert_eq!(*inside.told.borrow(), Told::Wait);
        let error = enter(&[run.id, b.id], "b / y", "A").unwrap_err();
        assert!(error.ends_with("between 'b' and 'b / y'"), "{error}");
        assert!(enter(&[run.id], "c", "A").is_ok());
    }
}
