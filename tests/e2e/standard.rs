//! Image `standard`: the Docker engine starts with its first client, a compiler and sudo work in a
//! sandbox of it.

use std::{fs, process::ExitCode};

use libtest_mimic::{Failed, Trial};
use mayfly_tests::{bench, finish, run_group};

/// Builds an image from nothing but a static busybox, and runs a container of it: no network. Nobody
/// starts the engine; its first client is the steps' user, who builds at once.
const SCRIPT: &str = r#"
set -eu
cd /src
echo "engines before: $(pgrep -c dockerd)"
printf 'FROM scratch\nCOPY busybox /bin/\nENV WORD=built\nENTRYPOINT ["/bin/busybox"]\n' > Dockerfile
su runner -c 'docker build --quiet --tag base .' >/dev/null || { tail /var/log/dockerd.log; exit 1; }
echo "engines after: $(pgrep -c dockerd)"
docker info --format 'engine {{.Driver}} cgroup {{.CgroupVersion}}'
docker run --rm base sh -c 'echo "container says $WORD as PID $$"'
docker run --rm base sh -c 'exit 9' || echo "container ended with $?"
echo 'int main(void) { return 7; }' > seven.c
cc seven.c -o seven
./seven || echo "compiled ends with $?"
su runner -c 'echo "runner is $(id -u), with sudo $(sudo -n id -u)"'
"#;

fn main() -> ExitCode {
    run_group(vec![Trial::test(
        "docker_builds_and_runs_a_container_and_cc_and_sudo_work",
        docker_cc_sudo,
    )])
}

fn docker_cc_sudo() -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    fs::write(folder.path().join("script.sh"), SCRIPT)?;
    fs::copy("/bin/busybox", folder.path().join("busybox"))
        .map_err(|cause| format!("/bin/busybox (package busybox-static): {cause}"))?;
    // The snapshot, made once, has a time limit of its own.
    let _ = finish(bench().mayfly(["exec", "--image", "standard", "--", "true"])).expect_code(0);
    let copy = format!("{}:/src", folder.path().display());
    let command = bench().mayfly([
        "exec",
        "--image",
        "standard",
        "--copy-in",
        &copy,
        "--",
        "bash",
        "/src/script.sh",
    ]);
    let ended = finish(command).expect_code(0);
    for line in [
        "engines before: 0",
        "engines after: 1",
        "engine overlay2 cgroup 2",
        "container says built as PID 1",
        "container ended with 9",
        "compiled ends with 7",
        "runner is 1001, with sudo 0",
    ] {
        let found = ended.stdout.lines().any(|said| said == line);
        assert!(
            found,
            "no line '{line}' in\n{}\n{}",
            ended.stdout, ended.stderr
        );
    }
    Ok(())
}
