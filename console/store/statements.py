"""The SQL of the hot path: what a fleet that comes and goes asks for thousands of times a second.

Each statement does a whole batch, which comes as one JSON parameter, and answers with one JSON value: it is a
single step of the engine, during which the event loop has the interpreter to itself, and there is no limit to
its size. This module is the only one with an engine's own words: SQLite's. PostgreSQL says `json_each` and
`json_extract` as `jsonb_each` and `->>`, and needs FOR UPDATE where a statement reads what the transaction
then changes. Everything else goes through SQLAlchemy Core.
"""

from typing import Final

FIND_DEFENDERS: Final = """
SELECT json_group_array(json_array(
    d.id, hex(d.public_key), d.hostname, d.fqdn, d.version, d.type, d.os, d.arch, d.capabilities,
    d.first_seen, d.last_modified, d.last_seen, d.connected, d.session,
    d.certificate_fingerprint, d.certificate_not_after, d.address, d.locked))
FROM json_each(:ids) AS r CROSS JOIN defenders AS d ON d.id = r.value
"""
"""`ids`: [id, …]. Those that there are."""

FIND_SESSIONS: Final = """
SELECT json_group_object(d.id, d.session)
FROM json_each(:ids) AS r CROSS JOIN defenders AS d ON d.id = r.value
"""
"""`ids`: [id, …]. {id: session} of those that there are."""

FIND_SPOOLS: Final = """
SELECT json_group_array(json_array(s.id, s.defender_id, s.epoch, s.through, s.missing, s.dropped))
FROM json_each(:keys) AS r CROSS JOIN spools AS s
ON s.defender_id = json_extract(r.value, '$[0]') AND s.epoch = json_extract(r.value, '$[1]')
"""
"""`keys`: [[defender, epoch], …]. Those that there are."""

ADD_DEFENDERS: Final = """
INSERT INTO defenders (id, public_key, hostname, fqdn, version, type, os, arch, capabilities,
    first_seen, last_modified, last_seen, connected, session,
    certificate_fingerprint, certificate_not_after, address, locked)
VALUES (:id, :public_key, :hostname, :fqdn, :version, :type, :os, :arch, :capabilities,
    :first_seen, :last_modified, :last_seen, true, :session,
    :certificate_fingerprint, :certificate_not_after, :address, false)
"""
"""A row each: JSON has no bytes."""

RETURN_DEFENDERS: Final = """
UPDATE defenders SET connected = true,
    session = json_extract(r.value, '$[0]'),
    last_modified = json_extract(r.value, '$[1]'),
    last_seen = json_extract(r.value, '$[2]'),
    address = json_extract(r.value, '$[3]')
FROM json_each(:rows) AS r WHERE defenders.id = r.key
"""
"""`rows`: {id: [session, last modified, last seen, address], …}."""

DESCRIBE_DEFENDERS: Final = """
UPDATE defenders SET
    hostname = json_extract(r.value, '$[0]'), fqdn = json_extract(r.value, '$[1]'),
    version = json_extract(r.value, '$[2]'), type = json_extract(r.value, '$[3]'),
    os = json_extract(r.value, '$[4]'), arch = json_extract(r.value, '$[5]'),
    capabilities = json_extract(r.value, '$[6]'),
    certificate_fingerprint = json_extract(r.value, '$[7]'),
    certificate_not_after = json_extract(r.value, '$[8]')
FROM json_each(:rows) AS r WHERE defenders.id = r.key
"""
"""`rows`: {id: [claims, fingerprint, not after], …}, for those of whom any of it changed."""

FIND_TO_FLIP: Final = """
SELECT json_group_array(d.id)
FROM json_each(:sessions) AS r CROSS JOIN defenders AS d
ON d.id = r.key AND d.session = r.value AND d.connected <> :connected
"""
"""`sessions`: {id: session, …}. The IDs of those that are not yet as they should be."""

FLIP: Final = """
UPDATE defenders SET connected = :connected, last_modified = :now
FROM json_each(:ids) AS r WHERE defenders.id = r.value
"""
"""`ids`: [id, …]."""

TOUCH: Final = """
UPDATE defenders SET last_seen = r.value
FROM json_each(:seen) AS r WHERE defenders.id = r.key AND defenders.last_seen < r.value
"""
"""`seen`: {id: time, …}."""

MOVE_SPOOLS: Final = """
UPDATE spools SET through = json_extract(r.value, '$[0]'),
    missing = json_extract(r.value, '$[1]'), dropped = json_extract(r.value, '$[2]')
FROM json_each(:rows) AS r WHERE spools.id = CAST(r.key AS INTEGER)
"""
"""`rows`: {spool: [through, missing, dropped], …}."""

ADD_SPOOLS: Final = """
INSERT INTO spools (defender_id, epoch, opened, through, missing, dropped)
SELECT json_extract(r.value, '$[0]'), json_extract(r.value, '$[1]'), :now,
    json_extract(r.value, '$[2]'), json_extract(r.value, '$[3]'), json_extract(r.value, '$[4]')
FROM json_each(:rows) AS r
"""
"""`rows`: [[defender, epoch, through, missing, dropped], …]."""

ADD_EVENTS: Final = """
INSERT INTO events (spool_id, number, time, received, type, fields)
VALUES (:spool_id, :number, :time, :received, :type, :fields)
"""
"""A row each: to say them in JSON and read that again would cost more."""
