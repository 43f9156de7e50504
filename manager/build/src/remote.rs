//! Sources from elsewhere: URLs and archives; see [`crate::git`] for repositories.

use std::io::{Read, Write};
use std::sync::Arc;

use futures_util::StreamExt;
use keg_store::Digest;
use tokio::process::Command;

use crate::build::Build;
use crate::content::TemporaryDir;
use crate::error::{BuildError, FetchError};
use crate::git::is_git;
use crate::ignore::Ignore;
use crate::inputs::Material;
use crate::layers::Files;
use crate::sources::{Files as SourceFiles, Item, ItemKind, Origin, Source};
use crate::tree::Tree;

/// The build argument by which a repository that is the context keeps its history (BuildKit's).
const KEEP_GIT_DIR: &str = "BUILDKIT_CONTEXT_KEEP_GIT_DIR";

/// Tells whether a source is to be fetched.
pub(crate) fn is_remote(source: &str) -> bool {
    source.starts_with("http://") || source.starts_with("https://") || is_git(source)
}

impl Build {
    /// Fetches what an `ADD` names. `names_a_file`: the destination says what a file is called.
    pub(crate) async fn fetch_source(
        &self,
        url: &str,
        checksum: Option<&str>,
        (keep_git_dir, unpack): (bool, Option<bool>),
        names_a_file: bool,
    ) -> Result<Vec<Source>, BuildError> {
        if is_git(url) {
            let mut address = self.git_address(url)?;
            address.commit = checksum.map(str::to_owned).or(address.commit);
            let tree = self.checkout(url, &address, keep_git_dir).await?;
            let files = SourceFiles::Tree(tree, Arc::default());
            return Ok(vec![files.select("", &Arc::default(), true).await?]);
        }
        let Download { digest, modified_nsec } = self.download(url).await?;
        if let Some(wanted) = checksum
            && digest.as_str() != wanted
        {
            let (url, wanted) = (url.to_owned(), wanted.to_owned());
            return Err(BuildError::Checksum { url, wanted, found: digest.to_string() });
        }
        let (address, found) = (url.to_owned(), digest.to_string());
        self.inputs.note_material(Material::Address { url: address, digest: found });
        let path = self.shared.content.path(digest.hex());
        let source = match file_name(url) {
            Some(name) => Source::stored(name, path, digest.hex(), modified_nsec),
            None if names_a_file => Source::stored("", path, digest.hex(), modified_nsec),
            None => {
                let problem = format!(
                    "{url} names no file: end the address or the destination with a file's name"
                );
                return Err(BuildError::Malformed { problem });
            }
        };
        if unpack == Some(true) {
            return Ok(vec![self.unpack_if_archive(source).await?]);
        }
        Ok(vec![source])
    }

    /// Downloads a file into the builder's store.
    async fn download(&self, url: &str) -> Result<Download, BuildError> {
        let failed = |source| BuildError::Fetch { url: url.to_owned(), source };
        let client = reqwest::Client::builder()
            .user_agent(concat!("keg/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| failed(FetchError::Http(error)))?;
        let mut request = client.get(url);
        if let Some(value) = self.http_authorization(url).await? {
            request = request.header(reqwest::header::AUTHORIZATION, value);
        }
        let response = request.send().await.map_err(|error| failed(FetchError::Http(error)))?;
        if !response.status().is_success() {
            let status = response.status().as_u16();
            return Err(failed(FetchError::Status { status }));
        }
        let modified = response.headers().get(reqwest::header::LAST_MODIFIED);
        let modified_nsec = modified.and_then(|date| date.to_str().ok()).map_or(0, date_nsec);
        if modified_nsec != 0 {
            self.inputs.note_time(url, modified_nsec / 1_000_000_000);
        }
        let mut writer =
            self.shared.content.writer().map_err(|error| failed(FetchError::Store(error)))?;
        let mut body = response.bytes_stream();
        while let Some(piece) = body.next().await {
            let piece = piece.map_err(|error| failed(FetchError::Http(error)))?;
            writer.write_all(&piece).map_err(|error| failed(FetchError::Store(error)))?;
        }
        let digest = writer.finish().map_err(|error| failed(FetchError::Store(error)))?;
        Ok(Download { digest, modified_nsec })
    }

    /// Returns what the client's secrets say of access to an address, as a header has it.
    async fn http_authorization(&self, url: &str) -> Result<Option<String>, BuildError> {
        let Some(host) = host_of(url) else { return Ok(None) };
        let secrets = [
            (format!("HTTP_AUTH_HEADER_{host}"), ""),
            (format!("HTTP_AUTH_TOKEN_{host}"), "Bearer "),
        ];
        for (id, prefix) in secrets {
            if let Some(value) = self.secret_text(&id).await? {
                return Ok(Some(format!("{prefix}{value}")));
            }
        }
        Ok(None)
    }

    /// Returns a secret of the client's, if it has one, as a line of text.
    pub(crate) async fn secret_text(&self, id: &str) -> Result<Option<String>, BuildError> {
        let secret = self.session.secret(id).await;
        let secret = secret.map_err(|source| BuildError::Session { source })?;
        Ok(secret.map(|bytes| String::from_utf8_lossy(&bytes).trim().to_owned()))
    }

    /// A context that is an archive which the client sends.
    pub(crate) async fn archive_context(&self, name: &str) -> Result<SourceFiles, BuildError> {
        let content = self.shared.content.clone();
        let stored = Arc::new(std::sync::Mutex::new((None, None)));
        let slot = Arc::clone(&stored);
        let sink = move |_: usize, bytes: bytes::Bytes, is_end: bool| {
            let mut slot = slot.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            let mut writer: crate::content::FileWriter = match slot.0.take() {
                Some(writer) => writer,
                None => content.writer()?,
            };
            writer.write_all(&bytes)?;
            if is_end {
                slot.1 = Some(writer.finish()?);
            } else {
                slot.0 = Some(writer);
            }
            Ok(())
        };
        self.session
            .fetch(name, vec![String::new()], Box::new(sink))
            .await
            .map_err(|source| BuildError::Session { source })?;
        let digest = stored.lock().unwrap_or_else(std::sync::PoisonError::into_inner).1.take();
        let digest =
            digest.ok_or(BuildError::ClientProtocol { what: "the archive was not sent" })?;
        self.unpacked_context(&digest).await
    }

    /// A context from a URL: a repository, or an archive.
    pub(crate) async fn remote_context(&self, url: &str) -> Result<SourceFiles, BuildError> {
        let step = self.progress.step(format!("[internal] load remote build context {url}"));
        let files = if is_git(url) {
            let keeps_git_dir = self.request.is_on(KEEP_GIT_DIR);
            let tree = self.checkout(url, &self.git_address(url)?, keeps_git_dir).await?;
            SourceFiles::Tree(Arc::clone(&tree), Arc::new(self.ignore_of(&tree)?))
        } else {
            let digest = self.download(url).await?.digest;
            let (address, found) = (url.to_owned(), digest.to_string());
            self.inputs.note_material(Material::Address { url: address, digest: found });
            self.unpacked_context(&digest).await?
        };
        step.done();
        Ok(files)
    }

    /// A context that is an image.
    pub(crate) async fn image_context(
        self: &Arc<Self>,
        name: &str,
    ) -> Result<SourceFiles, BuildError> {
        let image = self.image(name, &self.platform).await?;
        self.files_context(self.image_files(&image)?).await
    }

    /// A context that is files of an image.
    pub(crate) async fn files_context(&self, files: Files) -> Result<SourceFiles, BuildError> {
        if files.top.is_none() {
            let dir = self.shared.content.temporary_dir();
            let dir = dir.map_err(BuildError::io("make an empty directory"))?;
            let tree = Arc::new(Tree::directory(dir.path())?);
            self.keep_directory(dir);
            return Ok(SourceFiles::Tree(tree, Arc::default()));
        }
        let tree = self.shared.blocking(move |_| Ok(Tree::layers(&files.dirs())?)).await?;
        Ok(SourceFiles::Tree(Arc::new(tree), Arc::default()))
    }

    async fn unpacked_context(&self, digest: &Digest) -> Result<SourceFiles, BuildError> {
        let path = self.shared.content.path(digest.hex());
        let dir = self
            .shared
            .content
            .temporary_dir()
            .map_err(BuildError::io("make a directory for an archive"))?;
        let target = dir.path().to_owned();
        let is_archive =
            self.shared.blocking(move |_| crate::archive::unpack(&path, &target)).await?;
        if !is_archive {
            // A single file is a Dockerfile alone.
            std::fs::copy(
                self.shared.content.path(digest.hex()),
                dir.path().join(&self.request.dockerfile_name),
            )
            .map_err(BuildError::io("keep the Dockerfile"))?;
        }
        let tree = Arc::new(Tree::directory(dir.path())?);
        let ignore = self.ignore_of(&tree)?;
        self.keep_directory(dir);
        Ok(SourceFiles::Tree(tree, Arc::new(ignore)))
    }

    /// Reads the patterns in a context that is here: the Dockerfile's own, else those for all.
    fn ignore_of(&self, tree: &Tree) -> Result<Ignore, BuildError> {
        let limit_bytes = crate::dockerfile::MAX_BYTES as u64;
        let own = format!("{}.dockerignore", self.request.dockerfile_name);
        for name in [own.as_str(), ".dockerignore"] {
            let text = tree.read(name, limit_bytes);
            if let Some(text) = text.map_err(BuildError::io("read the .dockerignore"))? {
                return Ignore::parse(&String::from_utf8_lossy(&text))
                    .map_err(|source| BuildError::Ignore { source });
            }
        }
        Ok(Ignore::default())
    }

    /// Unpacks a source that is an archive of a kind that `ADD` knows.
    pub(crate) async fn unpack_if_archive(&self, source: Source) -> Result<Source, BuildError> {
        let [Item { kind: ItemKind::File { origin: Origin::Stored(path), .. }, .. }] =
            source.items.as_slice()
        else {
            return Ok(source);
        };
        let path = path.clone();
        let mut head = [0_u8; 512];
        let length = std::fs::File::open(&path)
            .and_then(|mut file| file.read(&mut head))
            .map_err(BuildError::io("read a source"))?;
        if !crate::archive::may_be(&head[..length]) {
            return Ok(source);
        }
        let dir = self
            .shared
            .content
            .temporary_dir()
            .map_err(BuildError::io("make a directory for an archive"))?;
        let target = dir.path().to_owned();
        if !self.shared.blocking(move |_| crate::archive::unpack(&path, &target)).await? {
            return Ok(source);
        }
        let tree = Arc::new(Tree::directory(dir.path())?);
        self.keep_directory(dir);
        let files = SourceFiles::Tree(tree, Arc::default());
        let mut unpacked = files.select("", &Arc::default(), true).await?;
        // What an archive says of its own root counts for nothing, as with BuildKit.
        if let Some(root) = unpacked.items.first_mut() {
            (root.mode, root.uid, root.gid) = (0o755, 0, 0);
        }
        Ok(unpacked)
    }
}

/// What a URL gave.
struct Download {
    digest: Digest,
    /// `Last-Modified`, nanoseconds since 1970; 0 if the server does not say.
    modified_nsec: i64,
}

/// Returns the host of an address, with its port if it names one.
pub(crate) fn host_of(url: &str) -> Option<&str> {
    let (_, rest) = url.split_once("://")?;
    let authority = rest.split(['/', '?', '#']).next()?;
    Some(authority.rsplit_once('@').map_or(authority, |(_, host)| host))
}

/// Returns the name of the file that a URL stands for.
fn file_name(url: &str) -> Option<&str> {
    let (_, rest) = url.split_once("://")?;
    let path = rest.split(['?', '#']).next()?;
    let (_, name) = path.rsplit_once('/')?;
    Some(name).filter(|name| !name.is_empty())
}

/// Reads a date as HTTP has it.
fn date_nsec(text: &str) -> i64 {
    jiff::fmt::rfc2822::parse(text.trim())
        .ok()
        .and_then(|date| i64::try_from(date.timestamp().as_nanosecond()).ok())
        .unwrap_or(0)
}

/// Runs a program that fetches something; returns what it printed.
pub(crate) async fn run(
    program: &'static str,
    mut command: Command,
    url: &str,
) -> Result<String, BuildError> {
    let failed = |source| BuildError::Fetch { url: url.to_owned(), source };
    let output = command
        .stdin(std::process::Stdio::null())
        .output()
        .await
        .map_err(|source| failed(FetchError::Program { program, source }))?;
    if !output.status.success() {
        let complaint = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(failed(FetchError::Failed { program, complaint }));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

impl Build {
    /// Keeps a directory until the build is over.
    pub(crate) fn keep_directory(&self, dir: TemporaryDir) {
        let mut kept = self.inputs.kept.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        kept.push(dir);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_called_as_its_address_ends() {
        assert_eq!(file_name("http://example.org/dir/a.txt?version=1#x"), Some("a.txt"));
        assert_eq!(file_name("http://example.org/"), None);
        assert_eq!(file_name("http://example.org"), None);
        assert_eq!(host_of("https://me@example.org:8443/x?y"), Some("example.org:8443"));
        assert_eq!(date_nsec("Wed, 21 Oct 2015 07:28:00 GMT"), 1_445_412_480_000_000_000);
        assert_eq!(date_nsec("yesterday"), 0);
    }
}
