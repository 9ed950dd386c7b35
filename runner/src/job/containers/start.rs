//! Starts a job's container and services, and removes them.

use std::{future::Future, sync::PoisonError};

use indexmap::IndexMap;
use uuid::Uuid;

use crate::{
    expression::value::Object,
    job::{Options, layout::Layout, process::Stop, reporter::Reporter},
    sandbox::Sandbox,
};

use super::{
    Call, ContainerError, Containers, Docker, JobContainer, Paths, Plan, client::SOCKET,
    display_name, health::Service, images::token_credentials, spec::ContainerSpec,
};

/// What is asked about a container that was started, in one call for all: whether it runs, then lines
/// about its `PATH`, its ports and its health check.
const STATE: &str = "--format={{println .State.Running}}\
    {{range .Config.Env}}{{if eq (index (split . \"=\") 0) \"PATH\"}}{{println .}}{{end}}{{end}}\
    {{range $port, $to := .NetworkSettings.Ports}}{{range $to}}\
    {{println $port \"->\" .HostPort}}{{end}}{{end}}\
    {{if .State.Health}}has a health check{{end}}";

/// What the job's containers are started for.
pub(super) struct Job<'a> {
    pub(super) containers: &'a Containers,
    pub(super) layout: &'a Layout,
    /// `github.actor` and `github.token`.
    pub(super) actor: &'a str,
    pub(super) token: &'a str,
    /// What starts the processes of steps.
    pub(super) starter: Option<String>,
}

/// What of the containers the `job` context tells.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// `job.container`.
    pub(super) container: Object,
    /// `job.services`.
    pub(super) services: Object,
}

/// What a container is created with.
struct Creation<'a> {
    spec: &'a ContainerSpec,
    /// What the image is called.
    image: String,
    name: String,
    /// Mounts beside those of the specification.
    mounts: Vec<String>,
    workdir: Option<String>,
    env: IndexMap<String, String>,
    entrypoint: Option<&'a str>,
    command: Vec<String>,
}

impl<S: Sandbox, R: Reporter> Docker<'_, '_, S, R> {
    /// Starts all that the job wants in a network of their own and waits until its services are
    /// healthy. What is told of those that were started holds even if others were not.
    pub(super) async fn start(
        &self,
        job: &Job<'_>,
        told: &mut Told,
        stop: &mut (impl Future<Output = Stop> + Unpin),
    ) -> Result<(), ContainerError> {
        let plan = job.containers.plan.get_or_init(Plan::default);
        let network = self.create_network(job, stop).await?;
        told.container.insert("network", network.as_str());
        if let Some(spec) = &plan.job {
            self.log.line("##[group]Starting job container").await;
            let container = self.start_job(spec, job, stop).await?;
            self.log.line("##[endgroup]").await;
            told.container.insert("id", container.id.as_str());
            job.containers.job.get_or_init(|| container);
        }
        let mut services = Vec::new();
        for spec in &plan.services {
            let alias = spec.alias.clone().unwrap_or_default();
            let title = format!("##[group]Starting {alias} service container");
            self.log.line(&title).await;
            let (service, ports) = self.start_service(spec, job, stop).await?;
            self.log.line("##[endgroup]").await;
            let mut entry = Object::new();
            entry.insert("id", service.id.as_str());
            entry.insert("ports", ports);
            entry.insert("network", network.as_str());
            told.services.insert(&alias, entry);
            services.push(service);
        }
        self.wait_for(&services, stop).await
    }

    /// Removes what was started; what cannot be removed goes with the sandbox.
    pub(super) async fn remove(
        &self,
        containers: &Containers,
        stop: &mut (impl Future<Output = Stop> + Unpin),
    ) -> Result<(), ContainerError> {
        let mut remove = vec!["rm", "--force"];
        let made = containers.take_made();
        for (name, id) in &made {
            let line = format!("Stop and remove container: {name}");
            self.log.line(&line).await;
            remove.push(id);
        }
        if !made.is_empty() {
            self.try_call(&remove, "rm", stop).await?;
        }
        if let Some(network) = containers.network.get() {
            let line = format!("Remove container network: {network}");
            self.log.line(&line).await;
            let remove = ["network", "rm", network];
            self.try_call(&remove, "network rm", stop).await?;
        }
        Ok(())
    }

    async fn create_network(
        &self,
        job: &Job<'_>,
        stop: &mut (impl Future<Output = Stop> + Unpin),
    ) -> Result<String, ContainerError> {
        let network = format!("github_network_{}", Uuid::new_v4().simple());
        let title = "##[group]Create local container network";
        self.log.line(title).await;
        let label = &job.containers.label;
        let create = Call::new(["network", "create", "--label", label, &network]);
        self.call(create, stop).await?.expect("network create")?;
        self.log.line("##[endgroup]").await;
        Ok(job.containers.network.get_or_init(|| network).clone())
    }

    async fn start_job(
        &self,
        spec: &ContainerSpec,
        job: &Job<'_>,
        stop: &mut (impl Future<Output = Stop> + Unpin),
    ) -> Result<JobContainer, ContainerError> {
        let paths = job_paths(job.layout, self.options);
        let mut env = spec.env.clone();
        env.insert("HOME".to_owned(), "/github/home".to_owned());
        let mut mounts = job_mounts(job.layout, self.options);
        mounts.extend(job.starter.clone());
        let creation = Creation {
            spec,
            image: self.image(spec, job, stop).await?,
            name: display_name("", &spec.image),
            mounts,
            workdir: Some(paths.inside(&job.layout.workspace)),
            env,
            entrypoint: Some("tail"),
            command: ["-f", "/dev/null"].map(str::to_owned).into(),
        };
        let (id, state) = self.create(creation, job, stop).await?;
        let path = state.lines().find_map(|line| line.strip_prefix("PATH="));
        Ok(JobContainer {
            client: self.client.clone(),
            id,
            paths,
            path: path.unwrap_or_default().to_owned(),
        })
    }

    async fn start_service(
        &self,
        spec: &ContainerSpec,
        job: &Job<'_>,
        stop: &mut (impl Future<Output = Stop> + Unpin),
    ) -> Result<(Service, Object), ContainerError> {
        let alias = spec.alias.clone().unwrap_or_default();
        let creation = Creation {
            spec,
            image: self.image(spec, job, stop).await?,
            name: display_name(&alias, &spec.image),
            mounts: Vec::new(),
            workdir: None,
            env: spec.env.clone(),
            entrypoint: spec.entrypoint.as_deref(),
            command: spec.command.clone(),
        };
        let (id, state) = self.create(creation, job, stop).await?;
        let service = Service {
            alias,
            image: spec.image.clone(),
            id,
            has_check: state.lines().any(|line| line == "has a health check"),
        };
        Ok((service, ports(&state)))
    }

    /// Creates a container, starts it and looks whether it runs; gives its id and what
    /// [`STATE`] tells of it.
    async fn create(
        &self,
        creation: Creation<'_>,
        job: &Job<'_>,
        stop: &mut (impl Future<Output = Stop> + Unpin),
    ) -> Result<(String, String), ContainerError> {
        let network = job.containers.network.get().map_or("", String::as_str);
        let name = creation.name.clone();
        let create = creation.call(&job.containers.label, network);
        let created = self.call(create, stop).await?.expect("create")?;
        let id = created.first_line().to_owned();
        if id.is_empty() || !id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(ContainerError::Answer("create"));
        }
        job.containers.add_made(name, id.clone());
        let start = Call::new(["start", &id]);
        self.call(start, stop).await?.expect("start")?;
        let inspect = Call::new(["inspect", STATE, &id]);
        let (running, state) = self.ask(inspect, stop).await?;
        if running != "true" {
            let logs = ["logs", "--details", &id];
            self.try_call(&logs, "logs", stop).await?;
            let message = format!("##[warning]Docker container {id} is not in running state.");
            self.log.line(&message).await;
        }
        Ok((id, state))
    }

    /// Provides the image of a container.
    async fn image(
        &self,
        spec: &ContainerSpec,
        job: &Job<'_>,
        stop: &mut (impl Future<Output = Stop> + Unpin),
    ) -> Result<String, ContainerError> {
        let fallback = token_credentials(&spec.image, job.actor, job.token);
        let credentials = spec.credentials.as_ref().or(fallback.as_ref());
        let temp = &job.layout.temp;
        self.provide(&spec.image, &spec.place, credentials, temp, stop)
            .await
    }
}

impl Containers {
    fn add_made(&self, name: String, id: String) {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        made.push((name, id));
    }

    fn take_made(&self) -> Vec<(String, String)> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *made)
    }
}

impl Creation<'_> {
    fn call(self, label: &str, network: &str) -> Call {
        let mut arguments = vec!["create".to_owned()];
        let mut option = |name: &str, value: &str| {
            arguments.extend([name.to_owned(), value.to_owned()]);
        };
        option("--name", &self.name);
        option("--label", label);
        if let Some(workdir) = &self.workdir {
            option("--workdir", workdir);
        }
        option("--network", network);
        if let Some(alias) = &self.spec.alias {
            option("--network-alias", alias);
        }
        for port in &self.spec.ports {
            option("-p", port);
        }
        arguments.extend(self.spec.options.iter().cloned());
        let mut env = self.env;
        env.insert("GITHUB_ACTIONS".to_owned(), "true".to_owned());
        env.entry("CI".to_owned())
            .or_insert_with(|| "true".to_owned());
        let mut option = |name: &str, value: &str| {
            arguments.extend([name.to_owned(), value.to_owned()]);
        };
        for name in env.keys() {
            option("-e", name);
        }
        for mount in self.mounts.iter().chain(&self.spec.volumes) {
            option("-v", mount);
        }
        if let Some(entrypoint) = self.entrypoint {
            option("--entrypoint", entrypoint);
        }
        arguments.push(self.image);
        arguments.extend(self.command);
        Call {
            arguments,
            env: env.into_iter().collect(),
            input: None,
        }
    }
}

/// What a job's container sees of the sandbox, and where.
fn job_paths(layout: &Layout, options: &Options) -> Paths {
    let mut paths = Paths::default();
    for node in &options.node {
        paths.add(&node.path, &format!("/__e/node{}", node.major));
    }
    paths.add(&layout.work, "/__w");
    paths.add(&layout.tool_cache, "/__t");
    paths.add(&layout.github_home(), "/github/home");
    paths.add(&layout.github_workflow(), "/github/workflow");
    paths
}

fn job_mounts(layout: &Layout, options: &Options) -> Vec<String> {
    let mut mounts = vec![
        format!("{SOCKET}:{SOCKET}"),
        format!("{}:/__w", layout.work),
        format!("{}:/__t", layout.tool_cache),
        format!("{}:/github/home", layout.github_home()),
        format!("{}:/github/workflow", layout.github_workflow()),
    ];
    for node in &options.node {
        mounts.push(format!("{}:/__e/node{}:ro", node.path, node.major));
    }
    mounts
}

/// Ports of the host by those of the container, as [`STATE`] tells them.
fn ports(told: &str) -> Object {
    let mut ports = Object::new();
    for line in told.lines() {
        let Some((inside, outside)) = line.split_once(" -> ") else {
            continue;
        };
        let port = inside.split('/').next().unwrap_or_default().trim();
        ports.insert(port, outside.trim());
    }
    ports
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        expression::value::Value,
        job::{NodeVersion, layout::WORK},
    };

    #[test]
    fn ports_are_told_by_the_containers_own() {
        let ports = ports("80/tcp -> 32768\n80/tcp -> 32768\n53/udp -> 5353\nPATH=/bin\n");
        assert_eq!(ports.get("80").and_then(Value::as_str), Some("32768"));
        assert_eq!(ports.get("53").and_then(Value::as_str), Some("5353"));
        assert_eq!(ports.len(), 2);
    }

    #[test]
    fn a_jobs_container_sees_the_work_folders_under_githubs_names() {
        let layout = Layout::new(WORK, "octo/hello");
        let options = Options {
            node: vec![NodeVersion {
                major: 20,
                path: "/opt/node/20".to_owned(),
            }],
            ..Options::default()
        };
        let paths = job_paths(&layout, &options);
        for (outside, inside) in [
            ("/home/runner/work/hello/hello", "/__w/hello/hello"),
            ("/home/runner/work/_temp/x.sh", "/__w/_temp/x.sh"),
            (layout.event_path().as_str(), "/github/workflow/event.json"),
            ("/home/runner/work/_tool/go", "/__t/go"),
            ("/opt/node/20/bin/node", "/__e/node20/bin/node"),
            ("/opt/other", "/opt/other"),
        ] {
            assert_eq!(paths.inside(outside), inside);
        }
    }

    #[test]
    fn options_come_before_the_image_and_values_are_in_no_argument() {
        let spec = ContainerSpec {
            alias: Some("db".to_owned()),
            image: "db:1".to_owned(),
            ports: vec!["80".to_owned()],
            volumes: vec!["/a:/b".to_owned()],
            options: vec!["--init".to_owned()],
            ..ContainerSpec::default()
        };
        let creation = Creation {
            image: "db:1".to_owned(),
            name: "cdb_1".to_owned(),
            mounts: Vec::new(),
            workdir: None,
            env: [("PASSWORD".to_owned(), "hush".to_owned())].into(),
            entrypoint: Some("/bin/db"),
            command: vec!["-p".to_owned(), "1".to_owned()],
            spec: &spec,
        };
        let call = creation.call("abc", "net");
        assert_eq!(
            call.arguments.join(" "),
            "create --name cdb_1 --label abc --network net --network-alias db -p 80 --init \
             -e PASSWORD -e GITHUB_ACTIONS -e CI -v /a:/b --entrypoint /bin/db db:1 -p 1"
        );
        assert_eq!(call.env[0], ("PASSWORD".to_owned(), "hush".to_owned()));
    }
}
