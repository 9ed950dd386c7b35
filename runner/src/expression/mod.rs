//! The expression language of `${{ }}`: values, parser, evaluation.

pub mod value;
