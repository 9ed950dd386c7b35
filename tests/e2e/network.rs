//! What a sandbox reaches through its worker: real tools inside, real servers at the other end (nginx, git,
//! dnsmasq, WebSockets). There is no policy here: each address that servers have in the sandbox's world leads
//! to one port of loopback, and everything else is refused.

use std::{
    collections::HashMap,
    fs,
    net::SocketAddr,
    process::{Child, Command, ExitCode, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use futures_util::{SinkExt, StreamExt};
use libtest_mimic::{Failed, Trial};
use mayfly::{
    egress::{
        dns::{Gateway, Names, Upstream},
        stack::{Incoming, IncomingReceiver, Limits, Refusal, Stack, StackConfig, forward},
    },
    sandbox::{ExecEvent, ExecRequest, Sandbox, microvm::MicroVm, network::NetworkEnd},
};
use mayfly_tests::{git_server::GitServer, guests::Guests, run_group};
use tempfile::TempDir;
use tokio::net::TcpListener;

/// Size of the large file: a gibibyte would take minutes in an emulated machine.
const LARGE_MIB: usize = 64;
/// Connections at once.
const PARALLEL: usize = 500;

fn main() -> ExitCode {
    run_group(vec![Trial::test(
        "tools_in_a_sandbox_reach_servers_through_the_worker",
        tools,
    )])
}

/// Connects 500 times at once, and holds one connection silent until all else is done.
const MANY: &str = r#"
import os, socket, time
def connect():
    s = socket.socket(); s.setblocking(False)
    try: s.connect(("192.0.2.10", 7))
    except BlockingIOError: pass
    return s
many = [connect() for _ in range(COUNT)]
for n, s in enumerate(many):
    s.setblocking(True); s.settimeout(60); s.send(b"%04d" % n)
got = [s.recv(4) for s in many]
assert got == [b"%04d" % n for n in range(COUNT)], got
print("parallel", len(set(s.getsockname()[1] for s in many)), flush=True)
idle = many.pop()
for s in many: s.close()
begun = time.monotonic()
while not os.path.exists("/tmp/go"): time.sleep(0.2)
idle.send(b"idle"); assert idle.recv(4) == b"idle"
print("idle", int(time.monotonic() - begun) >= 10, flush=True)
"#;

const SCRIPT: &str = r#"
set -e
cat /etc/resolv.conf; ip -brief address show eth0; ip -6 route show default
python3 -c "$MANY" & many=$!
echo "file $(curl -sSf http://files.test/large | sha256sum)"
echo "ipv6 $(curl -sSf -6 http://files.test/small)"
echo "http2 $(curl -sSf --http2-prior-knowledge -w ' %{http_version}' http://files.test:8080/small)"
git clone -q http://files.test:82/project.git /tmp/project; echo "git $(cat /tmp/project/hello)"
mkdir /tmp/npm; cd /tmp/npm
npm install --silent --no-audit --no-fund --no-update-notifier --registry http://files.test/ tiny >&2
echo "npm $(node -e 'console.log(require("tiny"))')"
node -e 'const s = new WebSocket("ws://files.test:81/"); s.onopen = () => s.send("hello"); s.onmessage = m => { console.log("websocket", m.data); s.close() }'
begun=$(date +%s); curl -sS http://files.test:9/ 2>&1 | tail -1 || true
curl -sS http://forbidden.test/ 2>&1 | tail -1 || true
echo "soon $(( $(date +%s) - begun < 10 ))"
touch /tmp/go; wait $many
"#;

fn tools() -> Result<(), Failed> {
    Guests::with(|guests| async move {
        let world = World::start().await?;
        let (sandbox, end) = guests.restore_online().await?;
        let (stack, names) = world.connect(end)?;
        let begun = Instant::now();
        let said = output(&sandbox).await?;
        println!(
            "{said}after {:?}; {:?}",
            begun.elapsed(),
            stack.statistics()
        );
        for line in world.expected() {
            assert!(said.contains(&line), "{line:?} is missing in\n{said}");
        }
        assert!(
            names
                .of("192.0.2.10".parse()?)
                .contains(&"files.test".to_owned())
        );
        let last = stack.statistics();
        assert_eq!((last.malformed, last.spoofed), (0, 0), "{last:?}");
        // A machine that ends leaves no connection behind.
        sandbox.end().await;
        let limit = Instant::now() + Duration::from_secs(10);
        while stack.statistics().connections > 0 {
            assert!(Instant::now() < limit, "{:?}", stack.statistics());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    })
}

/// Servers on loopback, and where they are for the sandbox.
struct World {
    folder: TempDir,
    git: GitServer,
    places: HashMap<SocketAddr, SocketAddr>,
    names: SocketAddr,
    digest: String,
    processes: Vec<Child>,
}

impl Drop for World {
    fn drop(&mut self) {
        for process in &mut self.processes {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

impl World {
    async fn start() -> Result<Self, Failed> {
        let folder = tempfile::tempdir()?;
        let git = GitServer::start();
        git.commit("project", &[("hello", "from git")], &[]);
        let mut world = Self {
            folder,
            git,
            places: HashMap::new(),
            names: free_port()?,
            digest: String::new(),
            processes: Vec::new(),
        };
        world.files()?;
        world.nginx()?;
        world.dnsmasq()?;
        world.place("192.0.2.10:7", echo().await?)?;
        world.place("192.0.2.10:81", websocket().await?)?;
        let git = world.git.url();
        let git = git.trim_start_matches("http://").parse()?;
        world.place("192.0.2.10:82", git)?;
        Ok(world)
    }

    fn place(&mut self, inside: &str, outside: SocketAddr) -> Result<(), Failed> {
        self.places.insert(inside.parse()?, outside);
        Ok(())
    }

    /// A large file, a small one, and a registry of one package.
    fn files(&mut self) -> Result<(), Failed> {
        let root = self.folder.path().join("files");
        fs::create_dir_all(root.join("package"))?;
        let large: Vec<u8> = (0..(LARGE_MIB << 18) as u32)
            .flat_map(|at| at.wrapping_mul(0x9e37_79b9).to_le_bytes())
            .collect();
        fs::write(root.join("large"), &large)?;
        let sha256 = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &large);
        self.digest = sha256
            .as_ref()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        fs::write(root.join("small"), "a few bytes")?;
        let manifest = r#"{"name":"tiny","version":"1.0.0","main":"index.js"}"#;
        fs::write(root.join("package/package.json"), manifest)?;
        fs::write(
            root.join("package/index.js"),
            "module.exports = 'installed'",
        )?;
        let archive = root.join("tiny-1.0.0.tgz");
        run(Command::new("tar")
            .arg("-czf")
            .arg(&archive)
            .arg("-C")
            .arg(&root)
            .arg("package"))?;
        let sha512 = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA512, &fs::read(&archive)?);
        let integrity = STANDARD.encode(sha512);
        let document = format!(
            r#"{{"name":"tiny","dist-tags":{{"latest":"1.0.0"}},"versions":{{"1.0.0":{{"name":"tiny",
            "version":"1.0.0","main":"index.js","dist":{{"tarball":"http://files.test/tiny-1.0.0.tgz",
            "integrity":"sha512-{integrity}"}}}}}}}}"#
        );
        Ok(fs::write(root.join("tiny"), document)?)
    }

    fn nginx(&mut self) -> Result<(), Failed> {
        let (plain, second) = (free_port()?, free_port()?);
        let folder = self.folder.path().display();
        let configuration = format!(
            "daemon off; master_process off; pid {folder}/pid; error_log stderr; events {{}}
             http {{ access_log off; default_type application/octet-stream;
               client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
               fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi;
               scgi_temp_path {folder}/scgi; root {folder}/files;
               server {{ listen {plain}; location = /tiny {{ default_type application/json; }} }}
               server {{ listen {second} http2; }} }}"
        );
        let file = self.folder.path().join("nginx.conf");
        fs::write(&file, configuration)?;
        self.run_beside(Command::new("/usr/sbin/nginx").arg("-c").arg(&file))?;
        self.place("192.0.2.10:80", plain)?;
        self.place("[2001:db8::10]:80", plain)?;
        self.place("192.0.2.10:8080", second)
    }

    fn dnsmasq(&mut self) -> Result<(), Failed> {
        let port = format!("--port={}", self.names.port());
        let options = [
            "--no-daemon",
            "--no-resolv",
            "--no-hosts",
            "--conf-file=/dev/null",
        ];
        let addresses = [
            "--address=/files.test/192.0.2.10",
            "--address=/files.test/2001:db8::10",
        ];
        let mut command = Command::new("/usr/sbin/dnsmasq");
        command.args(options).args(addresses).arg(port);
        command.args([
            "--listen-address=127.0.0.1",
            "--bind-interfaces",
            "--user=",
            "--pid-file=",
        ]);
        self.run_beside(&mut command)
    }

    fn run_beside(&mut self, command: &mut Command) -> Result<(), Failed> {
        let process = command.stdin(Stdio::null()).stderr(Stdio::null()).spawn();
        let process = process.map_err(|error| format!("{command:?}: {error}"))?;
        self.processes.push(process);
        Ok(())
    }

    /// Runs a stack behind a sandbox's card.
    fn connect(&self, end: NetworkEnd) -> Result<(Stack, Arc<Names>), Failed> {
        let names = Arc::new(Names::default());
        let config = StackConfig {
            addresses: end.addresses,
            limits: Limits::default(),
            names: Arc::clone(&names),
        };
        let may = Arc::new(|name: &str| match name {
            "files.test" => Ok(()),
            _ => Err("no rule allows it".to_owned()),
        });
        let gateway = Gateway::new(Upstream::at(self.names)?, Arc::clone(&names), may);
        let (stack, incoming) = Stack::start(end.socket, config)?;
        let places = self.places.clone();
        let own = end.addresses.gateway_v4;
        tokio::spawn(answer(
            incoming,
            places,
            (own, 53).into(),
            Arc::new(gateway),
        ));
        Ok((stack, names))
    }

    fn expected(&self) -> Vec<String> {
        vec![
            "nameserver 10.0.2.2".into(),
            "10.0.2.15/24".into(),
            format!("parallel {PARALLEL}"),
            format!("file {}", self.digest),
            "ipv6 a few bytes".into(),
            "http2 a few bytes 2".into(),
            "git from git".into(),
            "npm installed".into(),
            "websocket hello".into(),
            "port 9".into(),
            "Could not resolve host: forbidden.test".into(),
            "soon 1".into(),
            "idle True".into(),
        ]
    }
}

async fn answer(
    mut incoming: IncomingReceiver,
    places: HashMap<SocketAddr, SocketAddr>,
    names: SocketAddr,
    gateway: Arc<Gateway>,
) {
    while let Some(Incoming { flow, pending }) = incoming.recv().await {
        let to = SocketAddr::new(flow.address, flow.port);
        if to == names {
            let asked = Incoming { flow, pending };
            tokio::spawn(Arc::clone(&gateway).serve(asked));
        } else if let Some(place) = places.get(&to) {
            let asked = Incoming { flow, pending };
            tokio::spawn(forward(asked, Some(*place)));
        } else {
            pending.refuse(Refusal::Reset);
        }
    }
}

async fn echo() -> Result<SocketAddr, Failed> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let at = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = stream.split();
                tokio::io::copy(&mut read, &mut write).await
            });
        }
    });
    Ok(at)
}

async fn websocket() -> Result<SocketAddr, Failed> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let at = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            if let Ok(mut socket) = tokio_tungstenite::accept_async(stream).await {
                while let Some(Ok(message)) = socket.next().await {
                    if message.is_text() && socket.send(message).await.is_err() {
                        break;
                    }
                }
            }
        }
    });
    Ok(at)
}

fn free_port() -> Result<SocketAddr, Failed> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

fn run(command: &mut Command) -> Result<(), Failed> {
    let status = command.status()?;
    status
        .success()
        .then_some(())
        .ok_or_else(|| format!("{command:?}: {status}").into())
}

/// What the script said on both of its outputs.
async fn output(sandbox: &MicroVm) -> Result<String, Failed> {
    let many = MANY.replace("COUNT", &PARALLEL.to_string());
    let path = "/opt/node/24/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    let variables = [("PATH", path), ("HOME", "/root"), ("MANY", &many)];
    let mut exec = sandbox
        .exec(ExecRequest {
            argv: ["sh", "-c", SCRIPT].map(str::to_owned).to_vec(),
            env: variables
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .to_vec(),
            cwd: "/".to_owned(),
            user: None,
            stdin: false,
        })
        .await?;
    let mut said = Vec::new();
    while let Some(event) = exec.events.recv().await {
        match event {
            ExecEvent::Stdout(bytes) | ExecEvent::Stderr(bytes) => said.extend(bytes),
            ExecEvent::Exited(_) => break,
        }
    }
    Ok(String::from_utf8_lossy(&said).into_owned())
}
