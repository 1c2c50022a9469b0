//! What every MQTT 5 client of this process has in common.
//!
//! Owns: where it dials, who it is, and its TLS. Must not: set what differs between them.

use quorate_core::event::LinkFault;
use rumqttc::{Broker, MqttOptions, TopicAliasPolicy, Transport};

use super::{
    Options, protocol,
    setup::{self, Credentials},
};

/// Reads the files anew and makes the common part of the options of one connection.
pub(super) fn prepared(options: &Options) -> Result<MqttOptions, LinkFault> {
    let url = options.url.clone();
    let broker = Broker::tcp(url.host.clone(), url.port);
    let mut prepared = MqttOptions::new(options.client_id.clone(), broker);
    let connect_timeout = protocol::connect_timeout(options);
    prepared
        .set_keep_alive(options.keep_alive_s.max(1))
        .set_topic_alias_policy(TopicAliasPolicy::Disabled)
        .set_connect_timeout(connect_timeout);
    prepared.set_socket_connector(move |_, _| {
        let url = url.clone();
        async move { setup::dial(&url.host, url.port, connect_timeout).await }
    });
    if let Some(Credentials { username, password }) = setup::credentials(options)? {
        match password {
            Some(password) => prepared.set_credentials(username, password),
            None => prepared.set_username(username),
        };
    }
    if options.url.tls {
        prepared.set_transport(Transport::tls_with_config(setup::tls(options)?));
    }
    Ok(prepared)
}
