//! What Parti promises, proven on real processes: each module is a subject, each test is named after the promise it holds.

mod bad_components;
mod command_line;
mod connecting;
mod crashes;
mod degraded;
mod emergencies;
mod faults_backlog;
mod faults_lost_data;
mod faults_network;
mod faults_refused_writes;
mod filtering;
mod foreign;
mod handlers;
mod leadership;
mod leaving;
mod misuse;
mod nats_cluster;
mod nats_restart;
mod operator;
mod queue_mode;
mod reconnecting;
mod restarting;
mod sharing;
mod snapshots;
mod soak;
mod start_from;
