//! Owns the checks, in the order of [`Check`]. Evidence that is not there is missing, not good.

mod bandwidth;
mod hang;
mod hints;
mod naming;
mod network;
mod run;
mod traffic;

use self::bandwidth::bandwidth;
use self::network::{channels, gdr, network, nics, provider};
use self::run::{complete, hosts, last_warnings, run, values, versions};
use self::traffic::traffic;
use super::verdict::{Check, Expect, Findings};
use crate::nccl::log::report::Report;

pub(crate) fn all(found: &mut Findings, report: &Report, expect: &Expect) {
    run(found, report);
    complete(found, report, expect);
    values(found, report);
    hosts(found, report, expect);
    if report.json {
        let what = "nccl-tests' JSON holds no word about the network: providers, channels and most ranks are not in it";
        found.miss(Check::WrongProvider, what, "use the text log of a run with NCCL_DEBUG=INFO");
        [Check::SocketFallback, Check::GdrLost, Check::FewNics].into_iter().for_each(|check| found.skip(check));
    } else {
        provider(found, report);
        network(found, report);
        channels(found, report);
        gdr(found, report, expect);
        nics(found, report, expect);
    }
    traffic(found, report);
    bandwidth(found, report, expect);
    versions(found, report);
    last_warnings(found, report);
}
