//! A cgroup (version 2) for each worker and its sandbox, where this process may make one: bounds, and
//! one hand that ends all of it.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use crate::config::Pool;

/// What the worker and the VMM need beside the guest's memory.
const OVERHEAD_MIB: u64 = 512;
/// Most threads of a worker and its VMM.
const TASKS: u32 = 1024;
/// Controllers that are used where they are there.
const CONTROLLERS: [&str; 3] = ["memory", "cpu", "pids"];

/// Where cgroups of workers are made.
#[derive(Debug)]
pub struct Cgroups {
    base: PathBuf,
}

/// Why there are none.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// There is no cgroup file system of version 2, or this process is in none of its groups.
    #[error(
        "there is no cgroup version 2 of this process; boot with systemd.unified_cgroup_hierarchy=1"
    )]
    None,
    /// Others are in the group.
    #[error("other processes share the cgroup {}; start it as a service with Delegate=yes", .0.display())]
    Shared(PathBuf),
    /// It is not this process's to divide.
    #[error("cannot divide the cgroup {}: {cause}; start it as a service with Delegate=yes", .base.display())]
    Denied {
        /// The group.
        base: PathBuf,
        /// The cause.
        #[source]
        cause: io::Error,
    },
}

impl Cgroups {
    /// The part of the tree that is this process's own, ready to be divided.
    ///
    /// # Errors
    /// [`CgroupError`]; workers then run without bounds of their own.
    pub fn find() -> Result<Self, CgroupError> {
        let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let own = own.lines().find_map(|line| line.strip_prefix("0::"));
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let mount = mounts.lines().find_map(|line| {
            let mut fields = line.split(' ').skip(1);
            let (point, kind) = (fields.next()?, fields.next()?);
            (kind == "cgroup2").then(|| PathBuf::from(point))
        });
        let (Some(own), Some(mount)) = (own, mount) else {
            return Err(CgroupError::None);
        };
        // Where a supervisor before this one has put itself: the group above it is ours.
        let own = own.trim_start_matches('/');
        let own = own
            .strip_suffix("supervisor")
            .unwrap_or(own)
            .trim_end_matches('/');
        Self::at(mount.join(own), own.is_empty())
    }

    fn at(base: PathBuf, root: bool) -> Result<Self, CgroupError> {
        let denied = |cause| CgroupError::Denied {
            base: base.clone(),
            cause,
        };
        // A group with processes has no groups with bounds below it; the root of the tree may.
        if !root {
            let procs = fs::read_to_string(base.join("cgroup.procs")).map_err(denied)?;
            let own = std::process::id().to_string();
            if procs.lines().any(|pid| pid != own) {
                return Err(CgroupError::Shared(base));
            }
            let leaf = base.join("supervisor");
            made(&leaf).map_err(denied)?;
            fs::write(leaf.join("cgroup.procs"), own).map_err(denied)?;
        }
        let there = fs::read_to_string(base.join("cgroup.controllers")).map_err(denied)?;
        for controller in CONTROLLERS {
            if there.split_whitespace().any(|name| name == controller) {
                let control = base.join("cgroup.subtree_control");
                fs::write(control, format!("+{controller}")).map_err(denied)?;
            }
        }
        // Seen here, once, and not by each worker.
        let probe = base.join("mayfly-probe");
        made(&probe).map_err(denied)?;
        fs::remove_dir(&probe).map_err(denied)?;
        Ok(Self { base })
    }

    /// Makes the group of a worker, with the bounds of its pool.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn make(&self, name: &str, pool: &Pool) -> io::Result<PathBuf> {
        let path = self.base.join(format!("worker-{name}"));
        made(&path)?;
        bound(&path, pool)?;
        Ok(path)
    }
}

/// Sets the bounds of a worker's group. They are gone after a supervisor that crashed: the next one
/// starts in the group above, which must not bound those below it at that moment.
///
/// # Errors
/// The kernel's.
pub fn bound(group: &Path, pool: &Pool) -> io::Result<()> {
    let memory = (pool.memory_mib + OVERHEAD_MIB) << 20;
    // A vCPU each, and one for the worker's own work.
    let cpu = (u32::from(pool.cpus) + 1) * 100_000;
    for (file, value) in [
        ("memory.max", memory.to_string()),
        ("memory.oom.group", "1".to_owned()),
        ("cpu.max", format!("{cpu} 100000")),
        ("pids.max", TASKS.to_string()),
    ] {
        let file = group.join(file);
        // A controller that is not there has no such file.
        if file.exists() {
            fs::write(file, value)?;
        }
    }
    Ok(())
}

/// Puts a process into a group.
///
/// # Errors
/// The kernel's.
pub fn place(group: &Path, pid: u32) -> io::Result<()> {
    fs::write(group.join("cgroup.procs"), pid.to_string())
}

/// Ends all that is in a group.
pub fn kill(group: &Path) {
    if let Err(error) = fs::write(group.join("cgroup.kill"), "1")
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::debug!(%error, group = %group.display(), "cannot end a cgroup at once");
    }
}

/// Removes a group; it may take a moment until what was in it is gone.
pub async fn remove(group: &Path) {
    kill(group);
    for _ in 0..100 {
        match fs::remove_dir(group) {
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::BUSY.raw_os_error()) => {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(%error, group = %group.display(), "cannot remove the cgroup of a worker that is gone");
                return;
            }
            _ => return,
        }
    }
    tracing::warn!(group = %group.display(), "the cgroup of a worker that is gone still has processes");
}

fn made(path: &Path) -> io::Result<()> {
    match fs::create_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Mode;

    #[test]
    fn a_group_gets_the_bounds_of_its_pool_where_there_are_controllers() {
        let pool = Pool {
            name: "sandbox".into(),
            mode: Mode::Jit,
            labels: vec!["sandbox".into()],
            image: "minimal".into(),
            cpus: 2,
            memory_mib: 1024,
            capacity: 1,
            min_idle: 1,
            runner_group: "Default".into(),
            pins: None,
        };
        let group = tempfile::tempdir().unwrap();
        let file = |name: &str| group.path().join(name);
        for name in ["memory.max", "cpu.max"] {
            fs::write(file(name), "max\n").unwrap();
        }
        bound(group.path(), &pool).unwrap();
        let read = |name: &str| fs::read_to_string(file(name)).unwrap();
        assert_eq!(read("memory.max"), (1536_u64 << 20).to_string());
        assert_eq!(read("cpu.max"), "300000 100000");
        assert!(!file("pids.max").exists());
    }
}
