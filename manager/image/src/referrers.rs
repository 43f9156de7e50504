//! What a registry has besides images: other tags, and what refers to an image, as signatures and bills
//! of materials do.
//!
//! A pull or load that brings them labels what they refer to, so that it keeps them from the collector,
//! and so that a push or save finds them.

use keg_store::Descriptor;

use crate::manifest::{Document, ManifestError};
use crate::pull::PullError;
use crate::registry::Referrer;
use crate::{Credentials, Images, Platform, Reference};

/// Most referrers of one image that are fetched or passed on.
pub(crate) const MAX_REFERRERS: usize = 256;

/// Whose referrers to list.
#[derive(Debug, Clone)]
pub struct ReferrersRequest {
    /// The image.
    pub reference: Reference,
    /// The platform whose manifest they refer to; `None`: what the name stands for.
    pub platform: Option<Platform>,
    /// Their type; `None`: all.
    pub artifact_type: Option<String>,
    /// Credentials for this call only.
    pub credentials: Option<Credentials>,
}

/// What refers to an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Referrers {
    /// What they refer to.
    pub subject: Descriptor,
    /// They themselves, in the registry's order.
    pub referrers: Vec<Referrer>,
}

impl Images {
    /// Asks a registry what refers to an image there.
    ///
    /// # Errors
    /// [`PullError`] if the registry does not know the image, does not answer, or refuses.
    pub async fn referrers(&self, request: &ReferrersRequest) -> Result<Referrers, PullError> {
        let image = || request.reference.familiar();
        let registry = |source| PullError::Registry { image: image(), source: Box::new(source) };
        let manifest = |source: ManifestError| {
            let source = Box::new(source);
            PullError::Manifest { image: image(), source }
        };
        let repository = self
            .shared
            .registry
            .repository(&request.reference, request.credentials.as_ref())
            .map_err(registry)?;
        let target =
            repository.manifest(request.reference.tag_or_digest()).await.map_err(registry)?;
        let mut subject = target.descriptor;
        if let Some(platform) = &request.platform
            && let Document::Index(index) =
                Document::parse(&subject, &target.bytes).map_err(manifest)?
        {
            subject = index.choose(platform).map_err(manifest)?.clone();
        }
        let wanted = request.artifact_type.as_deref();
        let referrers = repository.referrers(&subject.digest, wanted).await.map_err(registry)?;
        Ok(Referrers { subject, referrers })
    }

    /// Asks a registry for all tags of a repository; tag and digest of the reference mean nothing here.
    ///
    /// # Errors
    /// [`PullError`] if the registry does not know the repository, does not answer, or refuses.
    pub async fn remote_tags(
        &self,
        reference: &Reference,
        credentials: Option<&Credentials>,
    ) -> Result<Vec<String>, PullError> {
        let image = reference.familiar_repository();
        let registry = |source| PullError::Registry { image, source: Box::new(source) };
        match self.shared.registry.repository(reference, credentials) {
            Ok(repository) => repository.tags().await.map_err(registry),
            Err(error) => Err(registry(error)),
        }
    }
}
