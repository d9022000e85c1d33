//! Owns what several checks advise.

pub(crate) const DEBUG: &str =
    "run it with NCCL_DEBUG=INFO on every rank (mpirun -x NCCL_DEBUG=INFO) and keep the whole log";
pub(crate) const WHOLE: &str = "judge the whole log, from the line `# nThread` on to the end";
pub(crate) const LIBRARY_PATH: &str = "put the folder of the plugin's libnccl-net.so (/opt/amazon/ofi-nccl/lib or lib64, \
                            /opt/aws-ofi-nccl/lib) into LD_LIBRARY_PATH there: mpirun -x LD_LIBRARY_PATH";

pub(crate) const DEVICE: &str = "check with `fi_info -p efa -t FI_EP_RDM` there that the host has an EFA device, and that the plugin's \
                      libfabric is the one of the EFA installer (/opt/amazon/efa)";
