//! Certificates, keys and tokens of one control plane, made anew for each.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use serde_json::json;

/// The token of the user who may do everything. It is worth nothing outside one test's namespace.
const ADMIN_TOKEN: &str = "streamvs-test-admin";

/// Names of the server in its certificate: as a Service, by loopback, and as a kubeconfig of kubeadm
/// has it.
const NAMES: [&str; 3] = ["kubernetes.default.svc", "localhost", "controlplane"];

/// The files kube-apiserver is given, and what a client needs.
#[derive(Debug)]
pub(super) struct Credentials {
    pub(super) certificate: PathBuf,
    pub(super) key: PathBuf,
    pub(super) account_key: PathBuf,
    pub(super) account_public_key: PathBuf,
    pub(super) tokens: PathBuf,
    pub(super) audit_policy: PathBuf,
    authority: PathBuf,
}

impl Credentials {
    /// Makes them in a folder, for a server at these addresses.
    pub(super) fn make(folder: &Path, addresses: &[IpAddr]) -> Self {
        let (authority, issuer) = new_authority();
        let names: Vec<String> =
            addresses.iter().map(ToString::to_string).chain(NAMES.map(str::to_owned)).collect();
        let key = KeyPair::generate().expect("a key can be made");
        let mut server = CertificateParams::new(names).expect("the names are well-formed");
        server.key_usages.push(KeyUsagePurpose::DigitalSignature);
        server.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
        let certificate = server.signed_by(&key, &issuer).expect("a certificate can be signed");
        let account_key = KeyPair::generate().expect("a key can be made");
        let write = |name: &str, text: &str| {
            let path = folder.join(name);
            std::fs::write(&path, text).expect("a new folder can be written to");
            path
        };
        Self {
            certificate: write("server.crt", &certificate.pem()),
            key: write("server.key", &key.serialize_pem()),
            account_key: write("accounts.key", &account_key.serialize_pem()),
            account_public_key: write("accounts.pub", &account_key.public_key_pem()),
            tokens: write("tokens.csv", &format!("{ADMIN_TOKEN},admin,admin,system:masters\n")),
            audit_policy: write("audit.json", &audit_policy()),
            authority: write("authority.crt", &authority),
        }
    }

    /// The certificate of the authority.
    pub(super) fn authority(&self) -> String {
        std::fs::read_to_string(&self.authority).expect("it was written")
    }

    /// A kubeconfig for whom a token stands for; the user who may do everything without one.
    pub(super) fn kubeconfig(&self, server: &str, token: Option<&str>) -> String {
        json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{
                "name": "lab",
                "cluster": { "server": server, "certificate-authority": self.authority },
            }],
            "users": [{ "name": "user", "user": { "token": token.unwrap_or(ADMIN_TOKEN) } }],
            "contexts": [{ "name": "lab", "context": { "cluster": "lab", "user": "user" } }],
            "current-context": "lab",
        })
        .to_string()
    }
}

/// Writes down what ServiceAccounts ask for, and nobody else.
fn audit_policy() -> String {
    json!({
        "apiVersion": "audit.k8s.io/v1",
        "kind": "Policy",
        "omitStages": ["RequestReceived"],
        "rules": [
            { "level": "Metadata", "userGroups": ["system:serviceaccounts"] },
            { "level": "None" },
        ],
    })
    .to_string()
}

/// A certificate authority: its certificate as text, and what signs for it.
fn new_authority() -> (String, Issuer<'static, KeyPair>) {
    let mut authority = CertificateParams::new(Vec::new()).expect("no name is well-formed");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.key_usages.push(KeyUsagePurpose::KeyCertSign);
    let key = KeyPair::generate().expect("a key can be made");
    let certificate = authority.self_signed(&key).expect("a certificate can be signed");
    (certificate.pem(), Issuer::new(authority, key))
}
