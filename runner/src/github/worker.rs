//! The life of a worker: a session, the wait for its one job, the job kept while it runs, its result.
//!
//! What runs the job is given as a function, so that this file knows nothing of sandboxes.

use std::{
    ops::RangeInclusive,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use jiff::Timestamp;
use tokio::time::sleep;
use tracing::Instrument;

use super::{
    broker::{
        AcknowledgeError, Broker, CallError, Identity, PollError, Session, SessionError, Status,
    },
    http::{Http, TransportError},
    jit::JitConfig,
    message::{JobOffer, Message},
    pause::{Backoff, between},
    report::{self, GitHubReporter, NoResults, Reported},
    run_service::{
        self, AcquireError, Annotation, Completion, Conclusion, JobCallError, JobService,
        NoConnection, Output,
    },
    token::{TokenError, TokenSource},
    told,
};
use crate::{
    job::{Cancellation, Canceller, cancellation, outcome::JobOutcome, request::JobRequest},
    notice::{Notice, Notices, Phase},
};

/// Waits and numbers of tries. The defaults are those of the official runner.
#[derive(Debug, Clone)]
pub struct Times {
    /// Between tries to open a session.
    pub session: Duration,
    /// Tries while another process has the session: four minutes of them.
    pub conflicts: u32,
    /// After each of the first five failed polls.
    pub poll: RangeInclusive<Duration>,
    /// After each further one.
    pub later_poll: RangeInclusive<Duration>,
    /// Failed polls in a row after which the worker gives up.
    pub polls: u32,
    /// Between tries to acquire or complete a job.
    pub call: RangeInclusive<Duration>,
    /// Tries to acquire or complete a job, and for its first renewal.
    pub calls: u32,
    /// After an offer that somebody else took: the first wait, and the longest.
    pub lost: (Duration, Duration),
    /// Between renewals of a job.
    pub renew: Duration,
    /// How long a job is worked on after its lock ended, while renewals fail.
    pub past_lock: Duration,
    /// How long the rest of a job's page may take once the job is over.
    pub report: Duration,
}

impl Default for Times {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self {
            session: seconds(30),
            conflicts: 8,
            poll: seconds(15)..=seconds(30),
            later_poll: seconds(30)..=seconds(60),
            polls: 10,
            call: seconds(1)..=seconds(10),
            calls: 5,
            lost: (seconds(1), seconds(60)),
            renew: seconds(60),
            past_lock: seconds(300),
            report: seconds(300),
        }
    }
}

/// How a worker's life ended.
#[derive(Debug)]
pub enum Ended {
    /// It ran a job and told its result.
    Job(JobOutcome),
    /// It was told to stop before a job came.
    Stopped,
    /// GitHub ended it before a job came; why.
    Shutdown(String),
    /// The job that it was offered was gone before it was taken; why.
    NoJob(String),
}

/// Why a worker's life ended otherwise.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// The machine cannot do TLS.
    #[error(transparent)]
    Setup(#[from] TransportError),
    /// No session.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// No messages.
    #[error(transparent)]
    Poll(#[from] PollError),
    /// The job message lacks what is needed to run and report it.
    #[error(transparent)]
    Connection(#[from] NoConnection),
    /// The job message does not say where its logs go.
    #[error(transparent)]
    Results(#[from] NoResults),
    /// The job was acquired but could not be kept, so it was not begun.
    #[error("the job could not be kept, and was not begun: {0}")]
    Renew(#[source] JobCallError),
    /// The job ran and its result is unknown to GitHub.
    #[error("the job ended, and GitHub did not take its result: {0}")]
    Complete(#[source] JobCallError),
}

/// One runner, registered just in time.
#[derive(Debug)]
pub struct Worker {
    http: Http,
    tokens: Arc<TokenSource>,
    broker: Broker,
    /// Whether GitHub removes it after one job.
    ephemeral: bool,
    times: Times,
    notices: Notices,
}

impl Worker {
    /// A worker that has not called anybody yet.
    ///
    /// # Errors
    /// [`WorkerError::Setup`].
    pub fn new(
        config: JitConfig,
        identity: Identity,
        user_agent: &str,
        times: Times,
    ) -> Result<Self, WorkerError> {
        let http = Http::new(user_agent)?;
        let key = Arc::new(config.key);
        let tokens = TokenSource::new(http.clone(), config.credentials, Arc::clone(&key));
        let tokens = Arc::new(tokens);
        let ephemeral = config.runner.ephemeral;
        let asked = Arc::clone(&tokens);
        let broker = Broker::new(http.clone(), asked, key, config.runner, identity);
        Ok(Self {
            http,
            tokens,
            broker,
            ephemeral,
            times,
            notices: Notices::default(),
        })
    }

    /// Tells a supervisor what happens.
    #[must_use]
    pub fn telling(mut self, notices: Notices) -> Self {
        self.notices = notices;
        self
    }

    /// Waits for a job, runs it with `run`, and tells its result.
    ///
    /// `stop` ends the wait for a job, and cancels one that runs.
    ///
    /// # Errors
    /// [`WorkerError`]; a job that was begun and failed is none.
    pub async fn live(
        mut self,
        run: impl AsyncFnOnce(&JobRequest, &GitHubReporter, Cancellation) -> JobOutcome,
        stop: Cancellation,
    ) -> Result<Ended, WorkerError> {
        let mut session = tokio::select! {
            biased;
            () = stop.requested() => return Ok(Ended::Stopped),
            session = self.open() => session?,
        };
        self.notices.tell(&Notice::Listening);
        let waited = tokio::select! {
            biased;
            () = stop.requested() => Ok(Waited::Stopped),
            waited = self.wait(&mut session) => waited,
        };
        let ended = match waited {
            Ok(Waited::Job(job)) => {
                // All lines of the log about it have its ids, as GitHub's page and support know them.
                let (job_id, request_id) = (&job.job.job_id, job.job.request_id);
                let span = tracing::info_span!("job", %job_id, request_id);
                let ended = self.job(&mut session, &job, run, stop);
                ended.instrument(span).await.map(Ended::Job)
            }
            Ok(Waited::Stopped) => Ok(Ended::Stopped),
            Ok(Waited::Shutdown(reason)) => Ok(Ended::Shutdown(reason)),
            Ok(Waited::NoJob(why)) => Ok(Ended::NoJob(why)),
            Err(error) => Err(error),
        };
        if let Err(error) = self.broker.close(session).await {
            tracing::debug!(%error, "the session was not closed; it ends by itself");
        }
        ended
    }

    async fn open(&mut self) -> Result<Session, WorkerError> {
        let mut conflicts = 0;
        loop {
            let error = match self.broker.open().await {
                Ok(session) => return Ok(session),
                Err(error) => error,
            };
            told::failed(&self.notices, "session", &error);
            match &error {
                SessionError::Conflict(_) if conflicts < self.times.conflicts => conflicts += 1,
                SessionError::Call(call) if may_pass(call) => {}
                SessionError::Refused(_) => {}
                _ => return Err(error.into()),
            }
            tracing::warn!(%error, "no session yet; trying again");
            let wait = self.times.session;
            sleep(between(wait / 2..=wait)).await;
        }
    }

    /// Waits until a job was acquired or there will be none.
    async fn wait(&mut self, session: &mut Session) -> Result<Waited, WorkerError> {
        let (first, limit) = self.times.lost;
        let mut lost = Backoff::new(first, limit);
        loop {
            match self.next(session, Status::Online).await? {
                Message::Job(offer) => {
                    if let Some(why) = self.acknowledge(session, &offer).await {
                        return Ok(Waited::NoJob(why));
                    }
                    match self.acquire(&offer).await {
                        Ok(job) => return Ok(Waited::Job(Box::new(Taken { job, offer }))),
                        Err(error) => tracing::warn!(%error, "an offered job was not acquired"),
                    }
                    sleep(lost.after_failure()).await;
                }
                Message::Shutdown { reason } => return Ok(Waited::Shutdown(reason)),
                other => self.heed(other).await,
            }
        }
    }

    /// The next message; failures are waited out, and a lost session is opened anew.
    async fn next(
        &mut self,
        session: &mut Session,
        status: Status,
    ) -> Result<Message, WorkerError> {
        let mut failures = 0;
        loop {
            let error = match self.broker.poll(session, status).await {
                Ok(Some(message)) => return Ok(message),
                Ok(None) => {
                    failures = 0;
                    continue;
                }
                Err(error) => error,
            };
            told::failed(&self.notices, "message", &error);
            match &error {
                PollError::SessionInvalid(_) => {
                    tracing::info!(%error, "opening a new session");
                    *session = self.open().await?;
                    continue;
                }
                PollError::RunnerGone(_) | PollError::VersionTooOld { .. } => {
                    return Err(error.into());
                }
                PollError::Call(call) if !may_pass(call) => return Err(error.into()),
                PollError::Call(_) | PollError::Refused(_) | PollError::Message(_) => {}
            }
            failures += 1;
            if failures >= self.times.polls {
                return Err(error.into());
            }
            tracing::warn!(%error, "a poll failed; trying again");
            let early = failures <= 5;
            let range = if early {
                &self.times.poll
            } else {
                &self.times.later_poll
            };
            sleep(between(range.clone())).await;
        }
    }

    /// Tells the broker that an offer arrived; why there is nothing left to wait for, if so.
    async fn acknowledge(&self, session: &Session, offer: &JobOffer) -> Option<String> {
        if !offer.acknowledge {
            return None;
        }
        let told = self.broker.acknowledge(session, Status::Online, offer);
        let error = told.await.err()?;
        told::failed(&self.notices, "acknowledge", &error);
        if let (AcknowledgeError::Gone(refusal), true) = (&error, self.ephemeral) {
            return Some(refusal.to_string());
        }
        tracing::debug!(%error, "the offer was not acknowledged");
        None
    }

    async fn acquire(&self, offer: &JobOffer) -> Result<JobRequest, AcquireError> {
        let (mut tries, begun) = (1, Instant::now());
        loop {
            let acquired = run_service::acquire(&self.http, &self.tokens, offer).await;
            match &acquired {
                Ok(_) => over(&self.notices, Phase::Acquire, begun),
                Err(error) => told::failed(&self.notices, "acquirejob", error),
            }
            match acquired {
                Err(AcquireError::Call(_) | AcquireError::Refused(_))
                    if tries < self.times.calls =>
                {
                    tries += 1;
                    sleep(between(self.times.call.clone())).await;
                }
                acquired => return acquired,
            }
        }
    }

    /// What every message means that is about no job.
    async fn heed(&mut self, message: Message) {
        match message {
            Message::Migrate(base) => self.broker.migrate(base),
            Message::RefreshToken => self.tokens.forget().await,
            Message::Update { version } => {
                tracing::info!(version, "GitHub names a newer official runner");
            }
            Message::WholeJob(_) => {
                tracing::error!("an old service sent a whole job, which Mayfly does not take");
            }
            Message::RefreshConfig | Message::Cancel { .. } => {}
            Message::Other(kind) => tracing::info!(kind, "a message of an unknown type"),
            Message::Job(_) | Message::Shutdown { .. } => {}
        }
    }

    /// Runs an acquired job to its told result.
    async fn job(
        &mut self,
        session: &mut Session,
        Taken { job, offer }: &Taken,
        run: impl AsyncFnOnce(&JobRequest, &GitHubReporter, Cancellation) -> JobOutcome,
        stop: Cancellation,
    ) -> Result<JobOutcome, WorkerError> {
        let arrived = Instant::now();
        let names = told::names(job);
        // As debug texts: people who can push choose them.
        tracing::info!(
            repository = ?names.repository,
            job_name = ?names.job_name,
            run_id = names.run_id,
            "a job begins"
        );
        self.notices.tell(&Notice::Job(names));
        let service = JobService::of(self.http.clone(), job)?;
        let locked_until = self
            .first_renewal(&service)
            .await
            .map_err(WorkerError::Renew)?;
        let (reporter, reporting) = match report::start(self.http.clone(), job) {
            Ok(started) => started,
            Err(error) => {
                let told = self.complete(&service, &never_begun(&error)).await;
                told.map_err(WorkerError::Complete)?;
                return Err(error.into());
            }
        };
        let (canceller, cancelled) = cancellation();
        let (notices, begun) = (self.notices.clone(), Instant::now());
        let running = async {
            let outcome = run(job, &reporter, cancelled).await;
            over(&notices, Phase::Run, begun);
            if let Some(first) = reporter.began() {
                let seconds = first.saturating_duration_since(arrived).as_secs_f64();
                let phase = Phase::FirstStep;
                notices.tell(&Notice::Phase { phase, seconds });
            }
            drop(reporter);
            outcome
        };
        let times = self.times.clone();
        let outcome = tokio::select! {
            outcome = running => outcome,
            never = async {
                tokio::join!(
                    keep(&service, locked_until, &times, &canceller, &notices),
                    self.listen(session, (&job.job_id, offer), &canceller),
                    async { stop.requested().await; canceller.cancel() },
                );
                std::future::pending().await
            } => never,
        };
        let begun = Instant::now();
        let reported = reporting.finish(self.times.report).await;
        if reported.incomplete > 0 {
            tracing::warn!(
                documents = reported.incomplete,
                "parts of the job's page are missing"
            );
        }
        let completion = completion(&outcome, reported);
        let told = self.complete(&service, &completion).await;
        told.map_err(WorkerError::Complete)?;
        over(&self.notices, Phase::Report, begun);
        let result = told::word(completion.conclusion);
        tracing::info!(result, "the job is over, and GitHub knows");
        self.notices.tell(&Notice::Ended { result });
        Ok(outcome)
    }

    async fn first_renewal(&self, service: &JobService) -> Result<Timestamp, JobCallError> {
        let renewed = self.tried("renewjob", async || service.renew().await).await;
        self.notices.tell(&Notice::Renewal {
            ok: renewed.is_ok(),
        });
        renewed
    }

    /// Tells the result. One that was told in a call without an answer is not known any more to the next.
    async fn complete(&self, service: &JobService, done: &Completion) -> Result<(), JobCallError> {
        let unanswered = AtomicBool::new(false);
        let tell = async || {
            let told = service.complete(done).await;
            match &told {
                Err(JobCallError::Transport(_)) => unanswered.store(true, Ordering::Relaxed),
                Err(JobCallError::Lost(_)) if unanswered.load(Ordering::Relaxed) => return Ok(()),
                _ => {}
            }
            told
        };
        self.tried("completejob", tell).await
    }

    /// Tries a call about the job until it is answered, refused for good, or was tried enough.
    async fn tried<T>(
        &self,
        endpoint: &str,
        call: impl AsyncFn() -> Result<T, JobCallError>,
    ) -> Result<T, JobCallError> {
        let mut tries = 1;
        loop {
            let answer = call().await;
            if let Err(error) = &answer {
                told::failed(&self.notices, endpoint, error);
            }
            match answer {
                Err(JobCallError::Transport(_) | JobCallError::Refused(_))
                    if tries < self.times.calls =>
                {
                    tries += 1;
                    sleep(between(self.times.call.clone())).await;
                }
                answer => return answer,
            }
        }
    }

    /// Listens for cancellations while a job runs; ends if there is nothing to listen to.
    async fn listen(
        &mut self,
        session: &mut Session,
        (job_id, taken): (&str, &JobOffer),
        canceller: &Canceller,
    ) {
        loop {
            match self.next(session, Status::Busy).await {
                Ok(Message::Cancel {
                    job_id: about,
                    grace,
                }) if about.eq_ignore_ascii_case(job_id) => match grace {
                    Duration::ZERO => canceller.cancel(),
                    grace => canceller.cancel_within(grace),
                },
                Ok(Message::Shutdown { reason }) => {
                    tracing::warn!(
                        reason,
                        "GitHub shuts this runner down; its job is cancelled"
                    );
                    canceller.cancel();
                }
                Ok(Message::Job(offer)) if offer.request_id == taken.request_id => {
                    tracing::debug!("the offer of the job that runs was delivered once more");
                }
                Ok(Message::Job(offer)) => {
                    tracing::warn!(
                        offer.request_id,
                        "a second job was offered and is left to others"
                    );
                }
                Ok(other) => self.heed(other).await,
                Err(error) => {
                    // The lock is what the job lives by; without messages it cannot be cancelled.
                    tracing::error!(%error, "cancellations of this job are not heard any more");
                    return;
                }
            }
        }
    }
}

/// Tells how long a phase took.
fn over(notices: &Notices, phase: Phase, begun: Instant) {
    let seconds = begun.elapsed().as_secs_f64();
    notices.tell(&Notice::Phase { phase, seconds });
}

/// A job, and the offer that led to it.
struct Taken {
    job: JobRequest,
    offer: JobOffer,
}

enum Waited {
    Job(Box<Taken>),
    Stopped,
    Shutdown(String),
    NoJob(String),
}

/// Whether a call that came to no answer may come to one later.
fn may_pass(error: &CallError) -> bool {
    match error {
        CallError::Token(token) => TokenError::may_pass(token),
        CallError::Transport(_) => true,
    }
}

/// Keeps the job until it is lost; then cancels it.
async fn keep(
    service: &JobService,
    mut locked_until: Timestamp,
    times: &Times,
    canceller: &Canceller,
    notices: &Notices,
) {
    loop {
        sleep(times.renew).await;
        let renewed = service.renew().await;
        let ok = renewed.is_ok();
        notices.tell(&Notice::Renewal { ok });
        if let Err(error) = &renewed {
            told::failed(notices, "renewjob", error);
        }
        match renewed {
            Ok(until) => locked_until = until,
            Err(error @ JobCallError::Lost(_)) => {
                tracing::error!(%error, "the job is cancelled");
                canceller.cancel();
                return;
            }
            Err(error) => {
                let over = Timestamp::now().duration_since(locked_until);
                let limit = jiff::SignedDuration::try_from(times.past_lock);
                if limit.is_ok_and(|limit| over > limit) {
                    tracing::error!(%error, "the job's lock is over; the job is cancelled");
                    canceller.cancel();
                    return;
                }
                tracing::warn!(%error, "the job was not renewed; trying again");
            }
        }
    }
}

/// The end of a job that could not be begun.
fn never_begun(why: &NoResults) -> Completion {
    Completion {
        conclusion: Conclusion::Failed,
        outputs: indexmap::IndexMap::new(),
        steps: Vec::new(),
        annotations: vec![Annotation {
            level: "failure".to_owned(),
            message: why.to_string(),
            is_infrastructure_issue: true,
            ..Annotation::default()
        }],
        environment_url: None,
    }
}

fn completion(outcome: &JobOutcome, reported: Reported) -> Completion {
    let output = |(name, value): &(String, String)| {
        let value = value.clone();
        let is_secret = false;
        (name.clone(), Output { value, is_secret })
    };
    Completion {
        conclusion: report::run_conclusion(outcome.result),
        outputs: outcome.outputs.iter().map(output).collect(),
        steps: reported.steps,
        annotations: reported.annotations,
        environment_url: outcome.environment_url.clone(),
    }
}
