//! Where archives lie: a directory, or a bucket that speaks S3.
//!
//! Guarantees that what was written is on the disk, or acknowledged by the bucket,
//! when [`Upload::finish`] returns, and that a file is there whole or not at all. Does
//! not delete anything but its own unfinished parts.

use std::ops::Range;
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::buffered::BufWriter;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{ClientConfigKey, ObjectStore, ObjectStoreExt, RetryConfig};
use sha2::{Digest, Sha256};
use tokio::io::AsyncWriteExt;

/// A part of an upload; S3 wants at least 5 MiB.
const PART_BYTES: usize = 8 * 1024 * 1024;
/// Parts under way at one time.
const PARTS_MAX: usize = 2;
/// What is read at once to hash a file.
const READ_BYTES: u64 = 8 * 1024 * 1024;
/// How often, and for how long, a request to a bucket is tried again.
const RETRIES_MAX: usize = 3;
const RETRY_MS_MAX: u64 = 20_000;

/// How buckets are reached, beside the AWS_* variables.
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// Of a bucket that is not Amazon's.
    pub endpoint: Option<String>,
    /// Whether it may be reached without TLS.
    pub allow_http: bool,
}

/// Why a place cannot be used.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum PlaceError {
    #[error("{location}: {source}")]
    Store { location: String, source: object_store::Error },
    #[error("{path}: {source}", path = path.display())]
    Directory { path: PathBuf, source: std::io::Error },
    #[error("{0}: name it as s3://BUCKET/PREFIX")]
    Url(String),
    #[error("{0}: its endpoint has no TLS: say --s3-allow-http if that is meant")]
    Http(String),
    #[error("{0}: a path that is no text")]
    NotText(String),
}

/// A directory, or a prefix in a bucket.
#[derive(Clone, Debug)]
pub struct ArchiveStore {
    store: Arc<dyn ObjectStore>,
    prefix: Path,
    directory: Option<PathBuf>,
    shown: String,
}

impl ArchiveStore {
    /// `s3://BUCKET/PREFIX`, or a directory that is there.
    pub fn open(text: &str, access: &Access) -> Result<ArchiveStore, PlaceError> {
        match text.strip_prefix("s3://") {
            Some(rest) => ArchiveStore::bucket(text, rest, access),
            None => ArchiveStore::directory(FilePath::new(text)),
        }
    }

    /// The same; a directory is made if it is not there.
    pub fn make(text: &str, access: &Access) -> Result<ArchiveStore, PlaceError> {
        if !text.starts_with("s3://") {
            std::fs::create_dir_all(text)
                .map_err(|source| PlaceError::Directory { path: text.into(), source })?;
        }
        ArchiveStore::open(text, access)
    }

    fn bucket(text: &str, rest: &str, access: &Access) -> Result<ArchiveStore, PlaceError> {
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        if bucket.is_empty() {
            return Err(PlaceError::Url(text.to_owned()));
        }
        let retry = RetryConfig {
            max_retries: RETRIES_MAX,
            retry_timeout: Duration::from_millis(RETRY_MS_MAX),
            ..RetryConfig::default()
        };
        let mut builder = AmazonS3Builder::from_env().with_bucket_name(bucket).with_retry(retry);
        if let Some(endpoint) = &access.endpoint {
            builder = builder.with_endpoint(endpoint);
        }
        if access.allow_http {
            builder = builder.with_allow_http(true);
        }
        let option = |key| builder.get_config_value(&key).unwrap_or_default();
        let plain = option(AmazonS3ConfigKey::Endpoint).starts_with("http://")
            || option(AmazonS3ConfigKey::S3Endpoint).starts_with("http://");
        let allowed = option(AmazonS3ConfigKey::Client(ClientConfigKey::AllowHttp)) == "true";
        if plain && !allowed {
            return Err(PlaceError::Http(text.to_owned()));
        }
        let store = builder
            .build()
            .map_err(|source| PlaceError::Store { location: text.to_owned(), source })?;
        let shown = format!("s3://{rest}").trim_end_matches('/').to_owned();
        Ok(ArchiveStore {
            store: Arc::new(store),
            prefix: Path::from(prefix),
            directory: None,
            shown,
        })
    }

    fn directory(path: &FilePath) -> Result<ArchiveStore, PlaceError> {
        let directory = path
            .canonicalize()
            .map_err(|source| PlaceError::Directory { path: path.to_owned(), source })?;
        let shown = directory
            .to_str()
            .ok_or_else(|| PlaceError::NotText(directory.display().to_string()))?
            .to_owned();
        let store = LocalFileSystem::new_with_prefix(&directory)
            .map_err(|source| PlaceError::Store { location: shown.clone(), source })?
            .with_fsync(true);
        let prefix = Path::default();
        Ok(ArchiveStore { store: Arc::new(store), prefix, directory: Some(directory), shown })
    }

    /// A file here.
    pub fn object(&self, name: &str) -> StoredObject {
        let (store, path) = (self.store.clone(), self.prefix.clone().join(name));
        StoredObject { store, path, location: format!("{}/{name}", self.shown) }
    }

    /// Removes what a killed upload has left in a directory. A bucket does not show
    /// unfinished uploads; its own rules end them.
    pub fn sweep(&self, name: &str) -> Result<(), PlaceError> {
        let Some(directory) = &self.directory else { return Ok(()) };
        let failed = |source| PlaceError::Directory { path: directory.clone(), source };
        for entry in std::fs::read_dir(directory).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let part = entry
                .file_name()
                .to_str()
                .and_then(|n| n.strip_prefix(name)?.strip_prefix('#').map(str::to_owned));
            if part.is_some_and(|part| part.bytes().all(|b| b.is_ascii_digit())) {
                std::fs::remove_file(entry.path()).map_err(failed)?;
            }
        }
        Ok(())
    }
}

/// A file, there or not.
#[derive(Clone, Debug)]
pub struct StoredObject {
    store: Arc<dyn ObjectStore>,
    path: Path,
    /// Where, for people and for [`StoredObject::at`].
    pub location: String,
}

impl StoredObject {
    /// The file at a path or `s3://…`.
    pub fn at(location: &str, access: &Access) -> Result<StoredObject, PlaceError> {
        let (parent, name) = match location.rsplit_once('/') {
            Some(("", name)) => ("/", name),
            Some(parts) => parts,
            None => (".", location),
        };
        Ok(ArchiveStore::open(parent, access)?.object(name))
    }

    fn failed(&self, source: object_store::Error) -> PlaceError {
        PlaceError::Store { location: self.location.clone(), source }
    }

    /// How many bytes it has, or `None` when it is not there.
    pub async fn size(&self) -> Result<Option<u64>, PlaceError> {
        match self.store.head(&self.path).await {
            Ok(meta) => Ok(Some(meta.size)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(self.failed(error)),
        }
    }

    /// A part of it.
    pub async fn range(&self, range: Range<u64>) -> Result<Bytes, PlaceError> {
        self.store.get_range(&self.path, range).await.map_err(|error| self.failed(error))
    }

    /// The SHA-256 of its `size` bytes.
    pub async fn hash(&self, size: u64) -> Result<[u8; 32], PlaceError> {
        let mut sha = Sha256::new();
        let mut at = 0;
        while at < size {
            let end = size.min(at + READ_BYTES);
            sha.update(self.range(at..end).await?);
            at = end;
        }
        Ok(sha.finalize().into())
    }

    /// Begins to write it. What was there stays until the new one is whole.
    pub fn upload(&self) -> Upload {
        let writer = BufWriter::with_capacity(self.store.clone(), self.path.clone(), PART_BYTES)
            .with_max_concurrency(PARTS_MAX);
        Upload { object: self.clone(), writer, sha: Sha256::new(), bytes: 0 }
    }
}

/// A file being written.
pub struct Upload {
    object: StoredObject,
    writer: BufWriter,
    sha: Sha256,
    bytes: u64,
}

impl Upload {
    /// The next bytes.
    pub async fn put(&mut self, bytes: Vec<u8>) -> Result<(), PlaceError> {
        self.sha.update(&bytes);
        self.bytes += bytes.len() as u64;
        self.writer.put(bytes.into()).await.map_err(|error| self.object.failed(error))
    }

    /// Makes it whole. Returns its length and its SHA-256.
    pub async fn finish(mut self) -> Result<(u64, [u8; 32]), PlaceError> {
        let finished = self.writer.shutdown().await;
        finished.map_err(|source| PlaceError::Directory {
            path: self.object.location.clone().into(),
            source,
        })?;
        Ok((self.bytes, self.sha.finalize().into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_is_reached_without_tls_only_if_that_was_said() {
        let _installed_before = rustls::crypto::ring::default_provider().install_default();
        let access =
            |allow_http| Access { endpoint: Some("http://127.0.0.1:1".into()), allow_http };
        let refused = ArchiveStore::open("s3://ward/cold", &access(false)).unwrap_err().to_string();
        assert!(refused.contains("--s3-allow-http"), "{refused}");
        let place = ArchiveStore::open("s3://ward/cold/", &access(true)).unwrap();
        let object = place.object("event_2026_01.parquet");
        assert_eq!(object.location, "s3://ward/cold/event_2026_01.parquet");
        assert!(ArchiveStore::open("s3://", &access(true)).is_err());
    }
}
