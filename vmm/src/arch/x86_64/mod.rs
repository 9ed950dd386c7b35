//! x86-64: address map, boot protocol, ACPI, CPUID and model-specific registers.

pub mod acpi;
pub mod boot;
pub mod cpuid;
pub mod layout;
pub mod msr;
pub mod registers;
