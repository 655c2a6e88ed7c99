//! Transcripts of the core: octets in, octets out. A [`Lab`] is a switch with a driver that
//! assigns every stream to the next of its endpoints, and peers that say exactly what a test wants.

mod age;
mod attacks;
mod conformance;
mod credit;
mod deadline;
mod endings;
mod faults;
mod lab;
mod memory;
