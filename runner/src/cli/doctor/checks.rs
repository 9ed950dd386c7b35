//! The single checks of `mayfly doctor`, each of which reads the machine and changes nothing.

use std::{env, fs, path::Path};

use mayfly_images::store::ImageStore;
use mayfly_vmm::probe::{self, KvmStatus};

use super::Check;
use crate::{
    config::{self, CredentialFiles, Installation, Pool, ServeConfig},
    sandbox::template,
    supervisor::credentials,
};

/// Memory below which not even one small sandbox is comfortable.
const LOW_MEMORY_MIB: u64 = 1024;
/// Free disk below which an image build is likely to fail.
const LOW_DISK_GIB: u64 = 5;

/// Runs every check, in the order in which a person would mend them.
pub fn all(installation: &Installation) -> Vec<Check> {
    let kvm = probe::probe();
    let usable = matches!(kvm, KvmStatus::Usable { .. });
    let mut checks = vec![
        cpu(),
        kvm_check(&kvm),
        emulator(usable, installation),
        memory(),
        disk(&installation.state),
        cgroup(),
        programs(installation),
        build_tools(),
        images(&installation.state),
        snapshots(installation, usable),
    ];
    checks.extend(serving(&config::file(), &installation.state));
    checks
}

/// The configuration of `mayfly serve`, where there is one.
fn serving(file: &Path, state: &Path) -> Option<Check> {
    let text = fs::read_to_string(file).ok()?;
    // What is no TOML, or is for serving; a file with other settings alone is as good as none.
    let table: Result<toml::Table, _> = toml::from_str(&text);
    let serves = |table: &toml::Table| table.contains_key("github") || table.contains_key("pools");
    if table.is_ok_and(|table| !serves(&table)) {
        return None;
    }
    let mend = "mend it; deploy/config.toml describes every key";
    let config = match ServeConfig::parse(file, &text) {
        Ok(config) => config,
        Err(problems) => {
            let first = problems.first().map(ToString::to_string);
            let found = match problems.len() {
                0 | 1 => first.unwrap_or_default(),
                number => format!("{} ({number} problems)", first.unwrap_or_default()),
            };
            return Some(Check::fail("serve", found, mend));
        }
    };
    let store = ImageStore::open(state);
    let lacks = |pool: &&Pool| {
        !store
            .as_ref()
            .is_ok_and(|store| store.get(&pool.image).is_ok())
    };
    if let Some(pool) = config.pools.iter().find(lacks) {
        let found = format!("pool {} has no image {}", pool.name, pool.image);
        let next = format!(
            "run `mayfly image build {}` with this state folder",
            pool.image
        );
        return Some(Check::fail("serve", found, next));
    }
    let key = match &config.github.credentials {
        CredentialFiles::App { key, .. } => key,
        CredentialFiles::Token(path) => path,
    };
    // What systemd hands to its service alone cannot be looked at from here.
    if !key.starts_with("/run/credentials")
        && let Err(error) = credentials::read(&config.github.credentials)
    {
        return Some(Check::fail("serve", error.to_string(), mend));
    }
    let serves = config.github.place.of(&config.github.scope);
    let found = format!("{serves}, pools: {}", config.pools.len());
    Some(Check::pass("serve", found))
}

fn cpu() -> Check {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        info.lines()
            .find(|line| line.starts_with(name))
            .and_then(|line| line.split_once(':'))
            .map(|(_, value)| value.trim().to_owned())
            .unwrap_or_default()
    };
    let model = field("model name");
    let cores = info
        .lines()
        .filter(|line| line.starts_with("processor"))
        .count();
    let found = format!("{model}, {cores} logical CPUs");
    if field("flags")
        .split_whitespace()
        .any(|flag| flag == "vmx" || flag == "svm")
    {
        return Check::pass("cpu", found);
    }
    Check::warn(
        "cpu",
        format!("{found}, neither VT-x nor SVM"),
        "turn virtualization on in the firmware, or nested virtualization on the host above",
    )
}

fn kvm_check(status: &KvmStatus) -> Check {
    let emulated = "jobs run under emulation until then, which is many times slower";
    match status {
        KvmStatus::Usable { .. } => Check::pass("kvm", status.to_string()),
        KvmStatus::NotPermitted => Check::fail(
            "kvm",
            status.to_string(),
            "add this user to the group that owns it: sudo usermod -aG kvm $USER, then log in again",
        ),
        KvmStatus::Absent => Check::warn(
            "kvm",
            status.to_string(),
            format!(
                "load kvm_intel or kvm_amd, or use a machine with (nested) virtualization; {emulated}"
            ),
        ),
        KvmStatus::Unusable { .. } => Check::warn(
            "kvm",
            status.to_string(),
            format!("use a machine whose KVM runs Linux guests; {emulated}"),
        ),
    }
}

fn emulator(kvm_usable: bool, installation: &Installation) -> Check {
    if kvm_usable {
        return Check::pass("emulator", "not needed");
    }
    let found = installation.softkvm().is_ok() && in_path("qemu-system-x86_64");
    if found {
        return Check::pass("emulator", "softkvm and qemu-system-x86_64");
    }
    Check::fail(
        "emulator",
        "incomplete",
        "run deploy/prerequisites.sh, then deploy/build.sh",
    )
}

fn memory() -> Check {
    let info = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let mib = |name: &str| {
        info.lines()
            .find_map(|line| {
                line.strip_prefix(name)?
                    .trim()
                    .strip_suffix(" kB")?
                    .parse::<u64>()
                    .ok()
            })
            .unwrap_or(0)
            / 1024
    };
    let (available, total) = (mib("MemAvailable:"), mib("MemTotal:"));
    let found = format!("{available} MiB available of {total} MiB");
    if available >= LOW_MEMORY_MIB {
        return Check::pass("memory", found);
    }
    Check::warn(
        "memory",
        found,
        "free memory or run jobs with a smaller --memory",
    )
}

fn disk(state: &Path) -> Check {
    let existing = state
        .ancestors()
        .find(|folder| folder.exists())
        .unwrap_or(Path::new("/"));
    match rustix::fs::statvfs(existing) {
        Ok(stat) => {
            let gib = stat.f_bavail.saturating_mul(stat.f_frsize) >> 30;
            let found = format!("{gib} GiB free for {}", state.display());
            if gib >= LOW_DISK_GIB {
                return Check::pass("disk", found);
            }
            Check::warn(
                "disk",
                found,
                "free some, or set MAYFLY_STATE to a folder on a larger disk",
            )
        }
        Err(error) => Check::fail(
            "disk",
            format!("{}: {error}", existing.display()),
            "set MAYFLY_STATE to a folder that this user can write",
        ),
    }
}

fn cgroup() -> Check {
    if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        return Check::pass("cgroup", "version 2");
    }
    Check::warn(
        "cgroup",
        "version 2 is not mounted at /sys/fs/cgroup",
        "boot with systemd.unified_cgroup_hierarchy=1; limits per worker will need it",
    )
}

fn programs(installation: &Installation) -> Check {
    match installation.vmm().and_then(|_| installation.agent()) {
        Ok(_) => Check::pass("programs", "mayfly-vmm and mayfly-guest are beside mayfly"),
        Err(error) => Check::fail("programs", error.to_string(), "run deploy/build.sh"),
    }
}

fn build_tools() -> Check {
    let missing: Vec<_> = ["git", "mmdebstrap", "mke2fs", "npm"]
        .into_iter()
        .filter(|tool| !in_path(tool))
        .collect();
    if missing.is_empty() {
        return Check::pass("tools", "git, mmdebstrap, mke2fs and npm");
    }
    Check::warn(
        "tools",
        format!("not found: {}", missing.join(", ")),
        "image builds need them: run deploy/prerequisites.sh",
    )
}

fn images(state: &Path) -> Check {
    match ImageStore::open(state).and_then(|store| store.list()) {
        Ok(images) if images.is_empty() => {
            Check::warn("images", "none", "run `mayfly image build minimal`")
        }
        Ok(images) => {
            let names: Vec<_> = images
                .iter()
                .flat_map(|image| image.names.clone())
                .collect();
            Check::pass("images", names.join(", "))
        }
        Err(error) => Check::fail(
            "images",
            error.to_string(),
            "repair or remove the state folder",
        ),
    }
}

fn snapshots(installation: &Installation, kvm_usable: bool) -> Check {
    match template::list(installation) {
        Ok(snapshots) if snapshots.is_empty() => {
            Check::warn("snapshots", "none", "the first `mayfly run` makes one")
        }
        // Those of the emulated machine are for its CPU, not for this one.
        Ok(snapshots) if !kvm_usable => Check::pass(
            "snapshots",
            format!(
                "{} kept; emulated jobs use those of their CPU",
                snapshots.len()
            ),
        ),
        Ok(snapshots) => {
            let usable = snapshots.iter().filter(|snapshot| snapshot.usable_here);
            let (usable, kept) = (usable.count(), snapshots.len());
            let found = format!("{usable} usable here of {kept} kept");
            if usable > 0 {
                return Check::pass("snapshots", found);
            }
            Check::warn(
                "snapshots",
                format!("{found}: the others are for another CPU or version"),
                "the first `mayfly run` makes one; `mayfly snapshot rm` removes old ones",
            )
        }
        Err(error) => Check::fail(
            "snapshots",
            error.to_string(),
            "run `mayfly snapshot rm --all`",
        ),
    }
}

fn in_path(program: &str) -> bool {
    // mke2fs lies in /usr/sbin, which is not in every user's PATH.
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .any(|folder| folder.join(program).is_file())
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::serving;
    use crate::cli::doctor::Verdict;

    const CONFIG: &str = "[github]\nrepository = \"octo/hello\"\ntoken_file = \"/run/credentials/x/t\"\n\
                          [[pools]]\nname = \"s\"\nimage = \"standard\"\ncapacity = 1\n";

    fn said(text: &str) -> Option<(Verdict, String)> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config.toml");
        fs::write(&file, text).unwrap();
        let check = serving(&file, &folder.path().join("state"))?;
        Some((check.verdict, check.found))
    }

    #[test]
    fn the_configuration_is_looked_at_where_it_is_for_serving() {
        let nowhere = serving(Path::new("/nowhere/config.toml"), Path::new("/nowhere"));
        assert!(nowhere.is_none());
        assert!(said("[actions]\npins = \"audit\"\n").is_none());
        let (verdict, found) = said(CONFIG).unwrap();
        assert_eq!(verdict, Verdict::Fail);
        assert!(found.contains("pool s has no image standard"), "{found}");
        let (verdict, found) = said(&CONFIG.replace("capacity", "capacty")).unwrap();
        assert_eq!(verdict, Verdict::Fail);
        assert!(
            found.contains("capacity") && found.contains("2 problems"),
            "{found}"
        );
        let (verdict, found) = said("[github\n").unwrap();
        assert_eq!(verdict, Verdict::Fail);
        assert!(found.contains("config.toml"), "{found}");
    }
}
