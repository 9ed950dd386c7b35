//! The certificate authority of one sandbox. Its key never leaves the memory of the worker: it is
//! never serialized, and the worker is not dumpable.

use std::{
    collections::{HashMap, VecDeque},
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _},
};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    GeneralSubtree, IsCa, Issuer, KeyUsagePurpose, NameConstraints, PublicKeyData, SanType,
    SerialNumber, SigningKey, date_time_ymd,
};
use rustls::{crypto::aws_lc_rs::sign::any_ecdsa_type, sign::CertifiedKey};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use zeroize::Zeroizing;

/// How long the authority is valid: no job takes longer.
const AUTHORITY: Duration = Duration::from_secs(6 * 24 * 3600);
/// How long a leaf certificate is valid.
const LEAF: Duration = Duration::from_secs(24 * 3600);
/// When a new leaf certificate is made for a host.
const RENEW: Duration = Duration::from_secs(12 * 3600);
/// How far a guest's clock may be behind.
const SLACK: Duration = Duration::from_secs(3600);
/// Most leaf certificates that are kept.
const MAX_LEAVES: usize = 256;

/// Why there is no authority or certificate.
#[derive(Debug, thiserror::Error)]
pub enum CertifyError {
    /// The key could not be made or used.
    #[error("the certificate authority of the sandbox has no key: the system gave no randomness")]
    Key,
    /// A certificate could not be made.
    #[error("cannot make a certificate for {name}: {cause}")]
    Certificate {
        /// Whom it should be for.
        name: String,
        /// The library's words.
        cause: rcgen::Error,
    },
}

/// A signing key that is nowhere but in the memory that the cryptographic library wipes.
struct Key {
    pair: EcdsaKeyPair,
}

impl Key {
    fn draw() -> Result<Self, CertifyError> {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING);
        let pair = pair.map_err(|_| CertifyError::Key)?;
        Ok(Self { pair })
    }
}

impl PublicKeyData for Key {
    fn der_bytes(&self) -> &[u8] {
        self.pair.public_key().as_ref()
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

impl SigningKey for Key {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        let signature = self.pair.sign(&SystemRandom::new(), message);
        let signature = signature.map_err(|_| rcgen::Error::RemoteKeyError)?;
        Ok(signature.as_ref().to_vec())
    }
}

/// What is wrong with a certificate that the guest shall refuse as it would refuse the server's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Flaw {
    /// Its time is over, or has not come.
    Expired,
    /// It is for another name.
    OtherName,
    /// Nobody whom the guest trusts signed it.
    UnknownIssuer,
}

/// The certificate authority of one sandbox.
pub struct Authority {
    issuer: Issuer<'static, Key>,
    certificate: CertificateDer<'static>,
    pem: String,
    /// Whom nobody trusts.
    stranger: Issuer<'static, Key>,
    /// One key for all leaf certificates: they live in the same memory.
    leaf_key: Arc<dyn rustls::sign::SigningKey>,
    leaf_public: Key,
    leaves: Mutex<Leaves>,
}

#[derive(Default)]
struct Leaves {
    by_name: HashMap<String, (Instant, Arc<CertifiedKey>)>,
    /// Names in the order in which they came.
    order: VecDeque<String>,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").finish_non_exhaustive()
    }
}

impl Authority {
    /// Draws a new authority. With `permitted` its certificates are valid for these domains (and
    /// what is below them) and addresses only; without, for all.
    ///
    /// # Errors
    /// [`CertifyError`] when the system has no randomness or a domain has no form.
    pub fn draw(permitted: Option<&[String]>) -> Result<Self, CertifyError> {
        let (key, leaf) = (Key::draw()?, Key::draw()?);
        let named = |cause| CertifyError::Certificate {
            name: "the authority of the sandbox".to_owned(),
            cause,
        };
        let mut params = authority("Mayfly sandbox authority");
        params.name_constraints = permitted.map(constraints);
        let certificate = params.self_signed(&key).map_err(named)?;
        let stranger = authority("The certificate of this server was refused by Mayfly");
        Ok(Self {
            pem: certificate.pem(),
            certificate: certificate.der().clone(),
            issuer: Issuer::new(params, key),
            stranger: Issuer::new(stranger, Key::draw()?),
            leaf_key: rustls_key(&leaf)?,
            leaf_public: leaf,
            leaves: Mutex::default(),
        })
    }

    /// The authority's certificate: what the guest shall trust. It is public.
    #[must_use]
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// The same in DER.
    #[must_use]
    pub fn der(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// A certificate for `name` (a host's name or an address), made now or before.
    pub(super) fn leaf(&self, name: &str) -> Result<Arc<CertifiedKey>, CertifyError> {
        if let Some(known) = self.known(name) {
            return Ok(known);
        }
        let made = self.certify(name, &self.issuer, now(), LEAF)?;
        let mut leaves = self.leaves.lock().unwrap_or_else(PoisonError::into_inner);
        leaves.keep(name, Arc::clone(&made));
        Ok(made)
    }

    fn known(&self, name: &str) -> Option<Arc<CertifiedKey>> {
        let leaves = self.leaves.lock().unwrap_or_else(PoisonError::into_inner);
        let (made, leaf) = leaves.by_name.get(name)?;
        (made.elapsed() < RENEW).then(|| Arc::clone(leaf))
    }

    /// A certificate for `name` that a client who looks at it refuses.
    pub(super) fn flawed(&self, name: &str, flaw: Flaw) -> Result<Arc<CertifiedKey>, CertifyError> {
        let long_ago = now().saturating_sub(30 * LEAF);
        match flaw {
            Flaw::Expired => self.certify(name, &self.issuer, long_ago, LEAF),
            Flaw::OtherName => self.certify("other.name.invalid", &self.issuer, now(), LEAF),
            Flaw::UnknownIssuer => self.certify(name, &self.stranger, now(), LEAF),
        }
    }

    fn certify(
        &self,
        name: &str,
        issuer: &Issuer<'_, Key>,
        at: Duration,
        valid: Duration,
    ) -> Result<Arc<CertifiedKey>, CertifyError> {
        let failed = |cause| CertifyError::Certificate {
            name: name.to_owned(),
            cause,
        };
        let mut params = CertificateParams::default();
        let san = match name.parse::<IpAddr>() {
            Ok(address) => SanType::IpAddress(address),
            Err(_) => SanType::DnsName(name.to_owned().try_into().map_err(failed)?),
        };
        params.subject_alt_names = vec![san];
        params.distinguished_name = common_name("Mayfly sandbox");
        params.serial_number = Some(serial()?);
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.not_before = date_time_ymd(1970, 1, 1) + at.saturating_sub(SLACK);
        params.not_after = date_time_ymd(1970, 1, 1) + at.saturating_add(valid);
        let signed = params.signed_by(&self.leaf_public, issuer);
        let chain = vec![signed.map_err(failed)?.der().clone()];
        let key = CertifiedKey::new(chain, Arc::clone(&self.leaf_key));
        Ok(Arc::new(key))
    }
}

impl Leaves {
    fn keep(&mut self, name: &str, leaf: Arc<CertifiedKey>) {
        let entry = (Instant::now(), leaf);
        if self.by_name.insert(name.to_owned(), entry).is_none() {
            self.order.push_back(name.to_owned());
        }
        if self.order.len() > MAX_LEAVES
            && let Some(oldest) = self.order.pop_front()
        {
            self.by_name.remove(&oldest);
        }
    }
}

fn authority(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = common_name(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.use_authority_key_identifier_extension = true;
    params.not_before = date_time_ymd(1970, 1, 1) + now().saturating_sub(SLACK);
    params.not_after = date_time_ymd(1970, 1, 1) + now().saturating_add(AUTHORITY);
    params
}

fn common_name(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

/// Domains and addresses as RFC 5280 (4.2.1.10) wants them. Where no address is permitted, none is.
fn constraints(permitted: &[String]) -> NameConstraints {
    let (mut domains, mut addresses) = (Vec::new(), Vec::new());
    for name in permitted {
        match name.parse::<IpAddr>() {
            Ok(address) => {
                let length = if address.is_ipv4() { 32 } else { 128 };
                let subnet = rcgen::CidrSubnet::from_addr_prefix(address, length);
                addresses.push(GeneralSubtree::IpAddress(subnet));
            }
            Err(_) => domains.push(GeneralSubtree::DnsName(name.clone())),
        }
    }
    let all_addresses = [
        GeneralSubtree::IpAddress(rcgen::CidrSubnet::from_v4_prefix([0; 4], 0)),
        GeneralSubtree::IpAddress(rcgen::CidrSubnet::from_v6_prefix([0; 16], 0)),
    ];
    let excluded = if addresses.is_empty() {
        all_addresses.into()
    } else {
        Vec::new()
    };
    if domains.is_empty() {
        // No constraint at all would permit every domain.
        domains.push(GeneralSubtree::DnsName("invalid".to_owned()));
    }
    domains.append(&mut addresses);
    NameConstraints {
        permitted_subtrees: domains,
        excluded_subtrees: excluded,
    }
}

fn serial() -> Result<SerialNumber, CertifyError> {
    let mut bytes = [0; 16];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| CertifyError::Key)?;
    // A positive number without zeros before it.
    bytes[0] = (bytes[0] & 0x7f) | 0x40;
    Ok(SerialNumber::from_slice(&bytes))
}

fn rustls_key(key: &Key) -> Result<Arc<dyn rustls::sign::SigningKey>, CertifyError> {
    let document = key.pair.to_pkcs8v1().map_err(|_| CertifyError::Key)?;
    let der = Zeroizing::new(document.as_ref().to_vec());
    let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(der.as_slice()));
    any_ecdsa_type(&der).map_err(|_| CertifyError::Key)
}

fn now() -> Duration {
    // A clock before 1970 makes certificates that nobody takes: safe.
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}
