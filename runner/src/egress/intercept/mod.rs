//! TLS interception for hosts that a rule marks: the worker ends the guest's TLS with a certificate of
//! this one sandbox's authority, begins its own to the server, and reads what goes between.
//!
//! Data flows one way: the guest's hello (`tls`) -> the server's handshake, with what the guest offers ->
//! the guest's, with what the server chose -> requests (`http`), each checked, judged ([`Judge`]), searched
//! for secrets (`leak`) and given the values that are bound to the host (`secrets`) -> answers, without
//! those values (`echo`).

mod ca;
mod echo;
mod http;
mod judge;
pub mod leak;
mod replay;
pub mod secrets;
pub mod setup;
#[cfg(test)]
pub(super) mod tests;
mod tls;
pub mod trust;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use rustls_pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite};

pub use ca::{Authority, CertifyError};
pub use judge::{Judge, Note, RequestHead, Target, Verdict};
pub use replay::Replay;
pub use tls::HandshakeError;

use self::{
    echo::Values,
    http::Session,
    leak::{Watch, Watched},
    secrets::Bindings,
    tls::Tls,
};

/// Interception for one sandbox.
pub struct Interceptor {
    authority: Authority,
    tls: Tls,
    bindings: Arc<Bindings>,
    /// What the hosts of one set of secrets may send back.
    returning: Mutex<HashMap<Arc<[usize]>, Returning>>,
}

#[derive(Clone)]
struct Returning {
    values: Arc<Values>,
    watch: Arc<Watch>,
}

impl std::fmt::Debug for Interceptor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Interceptor")
            .field("secrets", &self.bindings)
            .finish_non_exhaustive()
    }
}

/// Why a connection could not be intercepted.
#[derive(Debug, thiserror::Error)]
pub enum InterceptError {
    /// A handshake failed.
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
    /// The search for values cannot be built.
    #[error("the values of bound secrets cannot be searched for: {0}")]
    Search(#[from] aho_corasick::BuildError),
}

impl Interceptor {
    /// Interception with `authority` that trusts the host's certificate authorities and `roots`, and puts
    /// in the secrets of `bindings`.
    ///
    /// # Errors
    /// [`HandshakeError::NoRoots`] when no server could be trusted.
    pub fn new(
        authority: Authority,
        roots: &[CertificateDer<'static>],
        bindings: Arc<Bindings>,
    ) -> Result<Self, HandshakeError> {
        Ok(Self {
            authority,
            tls: Tls::new(roots)?,
            bindings,
            returning: Mutex::default(),
        })
    }

    /// What the guest shall trust.
    #[must_use]
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// The bound secrets.
    #[must_use]
    pub fn bindings(&self) -> &Arc<Bindings> {
        &self.bindings
    }

    /// Carries one connection of the guest, from its first byte (`guest` begins with the hello) to its end.
    /// `upstream` is connected to the server and nothing was sent there.
    ///
    /// # Errors
    /// [`InterceptError`] when no connection came about. A server that does not prove its name is no
    /// error: the guest sees it, and the judge is told.
    pub async fn carry<G, U>(
        &self,
        guest: G,
        upstream: U,
        target: Target,
        judge: Arc<dyn Judge>,
    ) -> Result<(), InterceptError>
    where
        G: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        U: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let asked = self.tls.hello(guest, &target).await?;
        match self.tls.connect(upstream, &target, asked.offered()).await {
            Ok((upstream, protocol)) => {
                let finish = asked.finish(&self.tls, &self.authority, &target, protocol);
                let guest = finish.await?;
                let session = self.session(target, judge)?;
                http::serve(guest, upstream, protocol, session).await;
            }
            Err(failure) => {
                judge.note(Note::Upstream(failure.words.clone()));
                let fail = asked.fail(&self.tls, &self.authority, &target, failure.flaw);
                let (guest, protocol) = fail.await?;
                http::excuse(guest, protocol, failure.words).await;
            }
        }
        Ok(())
    }

    fn session(
        &self,
        target: Target,
        judge: Arc<dyn Judge>,
    ) -> Result<Arc<Session>, InterceptError> {
        let allowed = self.bindings.allowed(&target);
        let Returning { values, watch } = self.returning(&allowed)?;
        let bindings = Arc::clone(&self.bindings);
        Ok(Session::new(
            target, judge, bindings, allowed, values, watch,
        ))
    }

    fn returning(&self, allowed: &Arc<[usize]>) -> Result<Returning, aho_corasick::BuildError> {
        let mut known = self
            .returning
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(returning) = known.get(allowed) {
            return Ok(returning.clone());
        }
        let secrets = self.bindings.values(allowed);
        // Who has no placeholder has the value; and a placeholder may come back.
        let hidden = secrets.iter().filter(|secret| secret.placeholder.is_some());
        let hidden = hidden.map(|secret| Watched {
            placeholder: None,
            ..*secret
        });
        let returning = Returning {
            values: Arc::new(Values::new(&secrets)?),
            watch: Arc::new(Watch::new(&hidden.collect::<Vec<_>>())?),
        };
        known.insert(Arc::clone(allowed), returning.clone());
        Ok(returning)
    }
}
