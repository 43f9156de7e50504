//! What a Dockerfile offers, as messages.

use std::ops::RangeInclusive;

use keg_build::{Outline, OutlineOffer, Targets};
use keg_proto::keg::v1 as pb;

fn lines_to_pb(lines: &RangeInclusive<usize>) -> pb::BuildLines {
    let number = |line: usize| u32::try_from(line).unwrap_or(u32::MAX);
    pb::BuildLines { first: number(*lines.start()), last: number(*lines.end()) }
}

fn offers_to_pb(offers: Vec<OutlineOffer>) -> Vec<pb::BuildOutlineOffer> {
    let offers = offers.into_iter().map(|offer| pb::BuildOutlineOffer {
        id: offer.id,
        is_required: offer.is_required,
        lines: Some(lines_to_pb(&offer.lines)),
    });
    offers.collect()
}

pub(super) fn outline_to_pb(outline: Outline) -> pb::BuildOutline {
    let args = outline.args.into_iter().map(|arg| pb::BuildOutlineArg {
        name: arg.name,
        value: arg.value.unwrap_or_default(),
        description: arg.description,
        lines: Some(lines_to_pb(&arg.lines)),
    });
    pb::BuildOutline {
        name: outline.name.unwrap_or_default(),
        description: outline.description,
        args: args.collect(),
        secrets: offers_to_pb(outline.secrets),
        agents: offers_to_pb(outline.agents),
        source: outline.source,
    }
}

pub(super) fn targets_to_pb(targets: Targets) -> pb::BuildTargets {
    let list = targets.targets.into_iter().map(|target| pb::BuildTarget {
        name: target.name.unwrap_or_default(),
        description: target.description,
        base: target.base,
        platform: target.platform.unwrap_or_default(),
        is_default: target.is_default,
        lines: Some(lines_to_pb(&target.lines)),
    });
    pb::BuildTargets { targets: list.collect(), source: targets.source }
}
