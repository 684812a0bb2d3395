//! Certificates for servers on loopback.

use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

use crate::{find, missing};

/// A certificate for 127.0.0.1, its key, and the authority that gave it, which nobody trusts by himself; made by OpenSSL.
#[derive(Debug)]
pub struct Certificates {
    folder: TempDir,
}

/// As OpenSSL is asked for a key.
const NEW_KEY: [&str; 5] = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];

impl Certificates {
    /// Good for a month.
    pub fn make() -> Option<Self> {
        let Some(openssl) = find("openssl") else { return missing("openssl") };
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        std::fs::write(folder.path().join("names"), "subjectAltName=IP:127.0.0.1\n").expect("a file can be written");
        let call = |arguments: &[&str]| {
            let done = Command::new(&openssl).args(arguments).current_dir(folder.path()).output().expect("it can be called");
            assert!(done.status.success(), "openssl {arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
        };
        let authority =
            ["-keyout", "authority.key", "-out", "authority.pem", "-subj", "/CN=an authority of tests", "-days", "30"];
        call(&[&["req", "-x509"][..], &NEW_KEY, &authority].concat());
        call(&[&["req"][..], &NEW_KEY, &["-keyout", "server.key", "-out", "server.csr", "-subj", "/CN=a server"]].concat());
        let signed = ["x509", "-req", "-in", "server.csr", "-out", "server.pem", "-days", "30", "-extfile", "names"];
        call(&[&signed[..], &["-CA", "authority.pem", "-CAkey", "authority.key", "-CAcreateserial"]].concat());
        Some(Self { folder })
    }

    /// What is to be trusted, in PEM.
    pub fn authority(&self) -> PathBuf {
        self.folder.path().join("authority.pem")
    }

    pub(crate) fn certificate(&self) -> PathBuf {
        self.folder.path().join("server.pem")
    }

    pub(crate) fn key(&self) -> PathBuf {
        self.folder.path().join("server.key")
    }
}
