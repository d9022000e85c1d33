//! Owns what a cluster is planned and tested by: the network interfaces of its nodes, the files by which they trust each
//! other, what they are asked, the command of a test. Knows nothing of the EC2 API, of connections or of logs.

pub mod check;
pub mod nic;
pub mod test;
pub mod trust;
