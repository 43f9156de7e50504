//! Variables: what `ARG` and `ENV` have set, and what every build has.

use std::collections::BTreeMap;

use keg_image::Platform;

use crate::config::ImageConfig;
use crate::dockerfile::Variables;

/// Arguments that every step sees without an `ARG`; they are no part of the image's history, and
/// results do not depend on them.
pub(crate) const PROXY_ARGS: [&str; 10] = [
    "HTTP_PROXY",
    "http_proxy",
    "HTTPS_PROXY",
    "https_proxy",
    "FTP_PROXY",
    "ftp_proxy",
    "NO_PROXY",
    "no_proxy",
    "ALL_PROXY",
    "all_proxy",
];

/// The variables of one place in a file.
#[derive(Debug)]
pub(crate) struct Scope<'a> {
    pub(crate) config: Option<&'a ImageConfig>,
    pub(crate) args: &'a [(String, Option<String>)],
}

impl Variables for Scope<'_> {
    fn value(&self, name: &str) -> Option<String> {
        // An ENV hides an ARG of the same name.
        self.config.and_then(|config| config.env(name)).or_else(|| {
            let (_, value) = self.args.iter().rev().find(|(key, _)| key == name)?;
            value.clone()
        })
    }
}

/// Returns the arguments that describe platforms and the target.
pub(crate) fn platform_args(
    build: &Platform,
    target: &Platform,
    stage: &str,
) -> BTreeMap<String, String> {
    let text = |platform: &Platform| {
        let mut text = format!("{}/{}", platform.os, platform.architecture);
        if !platform.variant.is_empty() {
            text.push('/');
            text.push_str(&platform.variant);
        }
        text
    };
    let mut args = BTreeMap::new();
    for (prefix, platform) in [("BUILD", build), ("TARGET", target)] {
        args.insert(format!("{prefix}PLATFORM"), text(platform));
        args.insert(format!("{prefix}OS"), platform.os.clone());
        args.insert(format!("{prefix}ARCH"), platform.architecture.clone());
        args.insert(format!("{prefix}VARIANT"), platform.variant.clone());
    }
    args.insert("TARGETSTAGE".to_owned(), stage.to_owned());
    args
}

/// Sets an argument, in the place that it has or at the end.
pub(crate) fn set_arg(args: &mut Vec<(String, Option<String>)>, key: &str, value: Option<String>) {
    match args.iter_mut().find(|(other, _)| other == key) {
        Some((_, old)) => *old = value,
        None => args.push((key.to_owned(), value)),
    }
}
