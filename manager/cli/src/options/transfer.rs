//! What `pull` and `push` have in common: which platforms, what comes along, how progress is shown.

use clap::Args;
use keg_proto::keg::v1::Platform;

use crate::failure::Failure;
use crate::options::platform;
use crate::progress::{Progress, ProgressStyle, Target};

// No doc comment: see `commands`.
#[derive(Debug, Clone, Args)]
pub(crate) struct TransferFlags {
    /// The image of this platform only, as in linux/arm64; for `pull` also several
    #[arg(long, value_name = "OS/ARCH[/VARIANT]", value_delimiter = ',')]
    platform: Vec<String>,
    /// How to show progress: auto, plain or json
    #[arg(long, value_name = "STYLE", default_value = "auto", hide_possible_values = true)]
    progress: ProgressStyle,
    /// Print nothing but the image's full name
    #[arg(short = 'q', long)]
    pub(crate) quiet: bool,
    /// Also signatures, bills of materials and whatever else refers to the image
    #[arg(long)]
    pub(crate) referrers: bool,
}

/// Several platforms where there can be only one.
#[derive(Debug, thiserror::Error)]
#[error("several platforms, and a push sends either one or all that are here")]
struct SeveralPlatforms;

impl TransferFlags {
    /// The platforms that were named.
    ///
    /// # Errors
    /// A usage failure if one of them is none.
    pub(crate) fn platforms(&self) -> Result<Vec<Platform>, Failure> {
        self.platform.iter().map(|text| platform::parse(text).map_err(Failure::usage)).collect()
    }

    /// The one platform that was named, if any.
    ///
    /// # Errors
    /// A usage failure if it is none, or if there are several.
    pub(crate) fn one_platform(&self) -> Result<Option<Platform>, Failure> {
        let mut platforms = self.platforms()?;
        match platforms.len() {
            0 | 1 => Ok(platforms.pop()),
            _ => Err(Failure::usage(SeveralPlatforms)
                .with_remedy("leave --platform out to push all that are here")),
        }
    }

    /// Whether people read what is printed.
    pub(crate) fn talks(&self) -> bool {
        !self.quiet && self.progress != ProgressStyle::Json
    }

    /// How progress is shown.
    pub(crate) fn progress(&self) -> Progress {
        match self.quiet {
            true => Progress::Silent,
            false => Progress::new(self.progress, Target::Stdout),
        }
    }
}
