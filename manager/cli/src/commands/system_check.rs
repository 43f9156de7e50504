//! `keg system check`: compares what is recorded with what is on the disk.

use clap::Args;
use keg_proto::keg::v1::{CheckRequest, CheckResponse, Finding};

use crate::client::Daemon;
use crate::failure::Failure;
use crate::template::{Template, Value};
use crate::{humanize, output};

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  keg system check             is everything there, of the right size, and accounted for?
  keg system check --read      also: does each blob still have its digest?
  keg system check --repair    forget what is damaged, so that the next pull fetches it again, and
                               remove what nothing needs

Ends with code 1 if something that is needed is missing or damaged and could not be repaired.")]
pub(crate) struct CheckArgs {
    /// Print as "json" or by a Go template
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// Read every blob and compare its digest
    #[arg(long)]
    read: bool,
    /// Mend what can be mended
    #[arg(long)]
    repair: bool,
}

/// Checks, and prints what is not as it should be.
pub(crate) async fn run(args: CheckArgs, host: &str) -> Result<u8, Failure> {
    let template = Template::parse_format(args.format.as_deref()).map_err(Failure::senseless)?;
    let daemon = Daemon::connect(host).await?;
    let request = CheckRequest { read_blobs: args.read, repair: args.repair };
    let report = daemon.storage().check(request).await?.into_inner();
    match template {
        None => output::print(&text(&report))?,
        Some(template) => {
            output::print_line(&template.render(&value(&report)).map_err(Failure::client)?)?;
        }
    }
    let is_damaged = |finding: &Finding| finding.is_damage && !finding.is_repaired;
    Ok(u8::from(report.findings.iter().any(is_damaged)))
}

fn text(report: &CheckResponse) -> String {
    let mut text = String::new();
    for finding in &report.findings {
        let mark = match (finding.is_repaired, finding.is_damage) {
            (true, _) => "repaired",
            (false, true) => "DAMAGED",
            (false, false) => "unneeded",
        };
        text += &format!("{mark}: {} {}: {}\n", finding.kind, finding.object, finding.problem);
        if !finding.remedy.is_empty() && !finding.is_repaired {
            text += &format!("     try: {}\n", finding.remedy);
        }
    }
    let count = |number: i64, what: &str| match number {
        1 => format!("1 {what}"),
        number => format!("{number} {what}s"),
    };
    let bytes = humanize::size(u64::try_from(report.blobs_bytes).unwrap_or(0));
    text + &format!(
        "Checked {} ({bytes}), {}, {}, {}: {}\n",
        count(report.blobs, "blob"),
        count(report.snapshots, "snapshot"),
        count(report.images, "image"),
        count(report.containers, "container"),
        match report.findings.len() {
            0 => "everything is as it should be".to_owned(),
            number => count(i64::try_from(number).unwrap_or(i64::MAX), "finding"),
        }
    )
}

fn value(report: &CheckResponse) -> Value {
    let finding = |finding: &Finding| {
        Value::record([
            ("Damage", Value::Bool(finding.is_damage)),
            ("Kind", Value::text(&finding.kind)),
            ("Object", Value::text(&finding.object)),
            ("Problem", Value::text(&finding.problem)),
            ("Remedy", Value::text(&finding.remedy)),
            ("Repaired", Value::Bool(finding.is_repaired)),
        ])
    };
    Value::record([
        ("Findings", Value::List(report.findings.iter().map(finding).collect())),
        ("Blobs", Value::Int(report.blobs)),
        ("BlobsBytes", Value::Int(report.blobs_bytes)),
        ("Snapshots", Value::Int(report.snapshots)),
        ("Images", Value::Int(report.images)),
        ("Containers", Value::Int(report.containers)),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_are_told_before_the_count() {
        let finding = Finding {
            is_damage: true,
            kind: "blob".to_owned(),
            object: "sha256:feed".to_owned(),
            problem: "its file is missing".to_owned(),
            remedy: "pull the image again".to_owned(),
            is_repaired: false,
        };
        let report = CheckResponse {
            findings: vec![finding],
            blobs: 2,
            images: 1,
            ..CheckResponse::default()
        };

        assert_eq!(
            text(&report),
            "DAMAGED: blob sha256:feed: its file is missing\n     try: pull the image again\n\
             Checked 2 blobs (0B), 0 snapshots, 1 image, 0 containers: 1 finding\n"
        );
    }
}
