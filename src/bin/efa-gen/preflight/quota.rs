//! Owns vCPU quotas: which one holds for a type, and whether it is large enough.

use super::context::PreflightContext;
use super::placement::{InstancePlacement, MachineRequirements};
use super::problem::Problem;

/// vCPU quotas by the letters that a type begins with, on demand and spot (AWS EC2 User Guide, "Amazon EC2 instance type
/// quotas"). Types of other letters have quotas of their own, which are not checked.
const QUOTAS: [(&[&str], &str, &str); 3] = [
    (&["p"], "L-417A185B", "L-7212CCBC"),
    (&["g", "gr", "vt"], "L-DB2E81BA", "L-3819A6DF"),
    (&["a", "c", "d", "h", "i", "im", "is", "m", "r", "t", "z"], "L-1216C47A", "L-34B43A08"),
];

impl PreflightContext<'_> {
    /// Only the limit: what is in use, EC2 tells no one before RunInstances.
    pub async fn check_quota(&mut self, machine: &InstancePlacement, requirements: &MachineRequirements<'_>) {
        let InstancePlacement { instance_type: kind, info, .. } = machine;
        let family: String = kind.chars().take_while(char::is_ascii_alphabetic).collect();
        let quota = QUOTAS.iter().find(|(names, ..)| names.contains(&family.as_str()));
        let Some((_, on_demand, spot)) = quota else { return };
        let code = if requirements.spot { spot } else { on_demand };
        match self.aws.quota(code).await {
            Ok(Some(limit)) if limit < f64::from(info.vcpus) * f64::from(requirements.count) => {
                let have =
                    if requirements.count == 1 { "has".into() } else { format!("times {} has", requirements.count) };
                let vcpus = i64::from(info.vcpus) * i64::from(requirements.count);
                let what = format!("the account's quota {code} is {limit} vCPUs, {kind} {have} {vcpus}");
                self.add(Problem::new(what, "ask for more under Service Quotas, or choose a smaller type"));
            }
            Ok(_) => {}
            Err(error) => self.notes.push(format!("the vCPU quota was not checked: {error}")),
        }
    }
}
