//! Owns what several checks advise.

use crate::nccl::log::report::Report;

const DEBUG: &str = "rerun with NCCL_DEBUG=INFO on every rank (mpirun -x NCCL_DEBUG=INFO) and keep the full log";
/// How to come by a line of NCCL's that is not in the log.
pub(crate) fn debug(report: &Report) -> &'static str {
    if report.nccl_lines > 0 {
        "capture the full output of every rank: this log has only some of NCCL's lines"
    } else {
        DEBUG
    }
}

pub(crate) const WHOLE: &str = "give the complete log, from the line `# nThread` to the end";
pub(crate) const LIBRARY_PATH: &str = "put the folder of the plugin's libnccl-net.so (/opt/amazon/ofi-nccl/lib or lib64, \
                            /opt/aws-ofi-nccl/lib) into LD_LIBRARY_PATH there: mpirun -x LD_LIBRARY_PATH";

pub(crate) const DEVICE: &str = "check with `fi_info -p efa -t FI_EP_RDM` there that the host has an EFA device, and that the plugin's \
                      libfabric is the one of the EFA installer (/opt/amazon/efa)";
