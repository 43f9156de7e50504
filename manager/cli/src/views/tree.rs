//! `images --tree`: each image, and below it the platforms that it can be had for.

use keg_proto::keg::v1::{ImageSummary, ImageVariant};

use crate::options::platform;
use crate::table::align;
use crate::{humanize, reference};

/// The whole tree.
pub(crate) fn text<'a>(images: impl IntoIterator<Item = &'a ImageSummary>) -> String {
    let mut lines = vec!["IMAGE\tID\tDISK USAGE\tCONTENT SIZE\tUSED".to_owned()];
    for image in images {
        let names: Vec<&str> = match image.names.as_slice() {
            [] => vec!["<untagged>"],
            names => names.iter().map(|name| reference::familiar(name)).collect(),
        };
        let used = if image.containers > 0 { "yes" } else { "" };
        let (disk_bytes, content_bytes) = sizes(image);
        lines.push(format!(
            "{}\t{}\t{}\t{}\t{used}",
            names.join(", "),
            humanize::short_id(&image.id),
            size(disk_bytes),
            size(content_bytes),
        ));
        let last = image.variants.len().saturating_sub(1);
        for (index, variant) in image.variants.iter().enumerate() {
            let branch = if index == last { "└─" } else { "├─" };
            lines.push(format!("{branch} {}", row(variant)));
        }
    }
    align(&lines)
}

/// What an image takes: unpacked and as stored together, and as stored alone.
fn sizes(image: &ImageSummary) -> (i64, i64) {
    if image.variants.is_empty() {
        return (image.size_bytes + image.stored_bytes, image.stored_bytes);
    }
    let here = image.variants.iter().filter(|variant| variant.is_here);
    here.fold((0, 0), |(disk, content), variant| {
        (disk + variant.size_bytes + variant.stored_bytes, content + variant.stored_bytes)
    })
}

fn row(variant: &ImageVariant) -> String {
    let name = variant.platform.as_ref().map(platform::text).unwrap_or_default();
    let id = humanize::short_id(&variant.digest);
    match variant.is_here {
        true => format!(
            "{name}\t{id}\t{}\t{}\t",
            size(variant.size_bytes + variant.stored_bytes),
            size(variant.stored_bytes)
        ),
        false => format!("{name}\t{id}\tnot here\t\t"),
    }
}

fn size(bytes: i64) -> String {
    humanize::size(u64::try_from(bytes).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use keg_proto::keg::v1::Platform;

    #[test]
    fn platforms_stand_below_their_image() {
        let variant = |architecture: &str, is_here| ImageVariant {
            platform: Some(Platform {
                os: "linux".to_owned(),
                architecture: architecture.to_owned(),
                variant: String::new(),
            }),
            digest: "sha256:feedfeedfeedfeed".to_owned(),
            is_here,
            stored_bytes: 1000,
            size_bytes: 3000,
        };
        let image = ImageSummary {
            id: "sha256:0123456789abcdef".to_owned(),
            names: vec!["docker.io/library/busybox:1".to_owned()],
            variants: vec![variant("amd64", true), variant("arm64", false)],
            ..ImageSummary::default()
        };

        let text = text([&image]);

        let words: Vec<Vec<&str>> =
            text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(words[1], ["busybox:1", "0123456789ab", "4kB", "1kB"]);
        assert_eq!(words[2], ["├─", "linux/amd64", "feedfeedfeed", "4kB", "1kB"]);
        assert_eq!(words[3], ["└─", "linux/arm64", "feedfeedfeed", "not", "here"]);
    }
}
