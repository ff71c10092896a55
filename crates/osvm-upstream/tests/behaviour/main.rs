//! What a server may do, and what becomes of the requests that wait for it.
#![cfg(test)]

mod eras;
mod flow;
mod health;
mod hostile;
mod http;

mod offers;
mod process;
mod sdk;
mod support;
mod vigil;
