//! TLS towards a backend: whom to trust, who we are; read again when the files change.
//!
//! Files are looked at when a connection is made, so a changed certificate takes effect with the next one. A file that
//! cannot be used leaves what was in use before in use, and is told by `problem`.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};
use std::{fmt, fs};

use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::{ring, verify_tls12_signature, verify_tls13_signature, CryptoProvider};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{
    CertificateDer, InvalidDnsNameError, PrivateKeyDer, ServerName, UnixTime,
};
use tokio_rustls::rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

/// The PEM files of a `tls` section.
#[derive(Clone, Debug, Default)]
pub struct Files {
    /// None: whom this machine trusts.
    pub ca: Option<PathBuf>,
    /// Our own, with its key: both or none.
    pub certificate: Option<PathBuf>,
    pub key: Option<PathBuf>,
}

#[derive(Clone, Debug)]
pub struct Settings {
    pub files: Files,
    /// What the certificate of the backend must name, where that is not the host of its endpoint.
    pub server_name: Option<String>,
    /// Encrypted, but to whom is not known.
    pub skip_verify: bool,
    pub reload_interval: Duration,
}

/// Why there can be no TLS with these files; for a person to read.
#[derive(Clone, Debug)]
pub struct Unusable(pub String);

impl fmt::Display for Unusable {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

pub struct Tls {
    settings: Settings,
    alpn: Vec<Vec<u8>>,
    state: Mutex<State>,
}

struct State {
    config: Arc<ClientConfig>,
    looked: Instant,
    stamps: Stamps,
    problem: Option<String>,
    reloads: u64,
    failed_reloads: u64,
}

/// What a file that was replaced does not share with the one before.
type Stamp = Option<(SystemTime, u64, u64)>;
type Stamps = [Stamp; 3];

impl Tls {
    /// `protocols`: for ALPN, best first.
    pub fn new(settings: Settings, protocols: &[&[u8]]) -> Result<Self, Unusable> {
        let alpn: Vec<Vec<u8>> = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        let stamps = stamps(&settings.files);
        let config = build(&settings, &alpn)?;
        let state =
            State { config, looked: Instant::now(), stamps, problem: None, reloads: 0, failed_reloads: 0 };
        Ok(Self { settings, alpn, state: Mutex::new(state) })
    }

    pub fn server_name(&self) -> Option<&str> {
        self.settings.server_name.as_deref()
    }

    /// For the next connection.
    pub fn config(&self) -> Arc<ClientConfig> {
        let mut state = self.lock();
        if state.looked.elapsed() >= self.settings.reload_interval {
            state.looked = Instant::now();
            self.look(&mut state);
        }
        state.config.clone()
    }

    /// Why files that have changed are not in use; None where all is well.
    pub fn problem(&self) -> Option<String> {
        self.lock().problem.clone()
    }

    /// How often changed files were taken into use, and could not be.
    pub fn reloads(&self) -> (u64, u64) {
        let state = self.lock();
        (state.reloads, state.failed_reloads)
    }

    fn look(&self, state: &mut State) {
        // Stamped before they are read: what changes meanwhile is found the next time.
        let stamps = stamps(&self.settings.files);
        if stamps == state.stamps {
            return;
        }
        match build(&self.settings, &self.alpn) {
            Ok(config) => {
                state.config = config;
                state.problem = None;
                state.reloads += 1;
            }
            Err(unusable) => {
                state.problem = Some(unusable.0);
                state.failed_reloads += 1;
            }
        }
        state.stamps = stamps;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn stamps(files: &Files) -> Stamps {
    use std::os::unix::fs::MetadataExt;

    // Through symbolic links, which is how Kubernetes replaces files.
    [&files.ca, &files.certificate, &files.key].map(|path| {
        let found = fs::metadata(path.as_ref()?).ok()?;
        Some((found.modified().ok()?, found.len(), found.ino()))
    })
}

fn build(settings: &Settings, alpn: &[Vec<u8>]) -> Result<Arc<ClientConfig>, Unusable> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| Unusable(error.to_string()))?;
    let builder = if settings.skip_verify {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(Anybody(provider)))
    } else {
        builder.with_root_certificates(trusted(settings.files.ca.as_deref())?)
    };
    let mut config = match (&settings.files.certificate, &settings.files.key) {
        (Some(certificate), Some(key)) => {
            let private = PrivateKeyDer::from_pem_file(key).map_err(|error| unusable(key, &error))?;
            builder
                .with_client_auth_cert(certificates(certificate)?, private)
                .map_err(|error| unusable(certificate, &error))?
        }
        (None, None) => builder.with_no_client_auth(),
        _ => return Err(Unusable("of certificate and key there is only one".into())),
    };
    config.alpn_protocols = alpn.to_vec();
    Ok(Arc::new(config))
}

fn trusted(ca: Option<&Path>) -> Result<RootCertStore, Unusable> {
    let mut roots = RootCertStore::empty();
    match ca {
        Some(path) => {
            for certificate in certificates(path)? {
                roots.add(certificate).map_err(|error| unusable(path, &error))?;
            }
        }
        None => {
            // Of hundreds some cannot be used; those that can are enough.
            let found = rustls_native_certs::load_native_certs();
            if roots.add_parsable_certificates(found.certs).0 == 0 {
                return Err(Unusable("this machine has no certificates of authorities".into()));
            }
        }
    }
    Ok(roots)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Unusable> {
    let found: Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(path).map_err(|error| unusable(path, &error))?.collect();
    let found = found.map_err(|error| unusable(path, &error))?;
    if found.is_empty() {
        return Err(unusable(path, &"there is no certificate in it"));
    }
    Ok(found)
}

fn unusable(path: &Path, reason: &impl fmt::Display) -> Unusable {
    Unusable(format!("{}: {reason}", path.display()))
}

/// The name that the certificate of the backend must hold.
pub fn server_name(name: &str) -> Result<ServerName<'static>, InvalidDnsNameError> {
    let name = name.trim_start_matches('[').trim_end_matches(']'); // of an IPv6 address in an endpoint
    ServerName::try_from(name.to_owned())
}

/// Takes any certificate; that its owner has its key is still checked.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
