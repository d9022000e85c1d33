//! Owns what a cluster is planned and tested by: the network interfaces of its nodes, the files by which they trust each
//! other, what they are asked, the command of a test, the pairs that name a bad host. Knows nothing of the EC2 API or of
//! connections.

pub mod check;
pub mod nic;
pub mod pairs;
pub mod test;
pub mod trust;
