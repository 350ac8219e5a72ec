CREATE TABLE schema_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT schema_version_pkc PRIMARY KEY (version_num)
);
CREATE TABLE state (
	id INTEGER NOT NULL, 
	version BIGINT NOT NULL, 
	CONSTRAINT pk_state PRIMARY KEY (id)
);
CREATE TABLE organisations (
	id VARCHAR(64) NOT NULL, 
	name VARCHAR(128) NOT NULL, 
	created_at DOUBLE NOT NULL, 
	CONSTRAINT pk_organisations PRIMARY KEY (id), 
	CONSTRAINT uq_organisations_name UNIQUE (name)
);
CREATE TABLE tenants (
	id VARCHAR(64) NOT NULL, 
	name VARCHAR(128) NOT NULL, 
	organisation_id VARCHAR(64), 
	policy TEXT NOT NULL, 
	is_disabled BOOLEAN NOT NULL, 
	origin VARCHAR(16) NOT NULL, 
	created_at DOUBLE NOT NULL, 
	deleted_at DOUBLE, 
	version BIGINT NOT NULL, 
	CONSTRAINT pk_tenants PRIMARY KEY (id), 
	CONSTRAINT fk_tenants_organisation_id_organisations FOREIGN KEY(organisation_id) REFERENCES organisations (id)
);
CREATE INDEX ix_tenants_version ON tenants (version);
CREATE UNIQUE INDEX ix_tenants_live_name ON tenants (name) WHERE deleted_at IS NULL;
CREATE TABLE api_keys (
	id VARCHAR(64) NOT NULL, 
	tenant_id VARCHAR(64) NOT NULL, 
	name VARCHAR(128) NOT NULL, 
	digest VARCHAR(64) NOT NULL, 
	hint VARCHAR(32) NOT NULL, 
	scopes TEXT NOT NULL, 
	limits TEXT NOT NULL, 
	origin VARCHAR(16) NOT NULL, 
	created_at DOUBLE NOT NULL, 
	expires_at DOUBLE, 
	revoked_at DOUBLE, 
	last_used_at DOUBLE, 
	version BIGINT NOT NULL, 
	CONSTRAINT pk_api_keys PRIMARY KEY (id), 
	CONSTRAINT fk_api_keys_tenant_id_tenants FOREIGN KEY(tenant_id) REFERENCES tenants (id), 
	CONSTRAINT uq_api_keys_digest UNIQUE (digest)
);
CREATE INDEX ix_api_keys_version ON api_keys (version);
CREATE INDEX ix_api_keys_tenant_id ON api_keys (tenant_id);
CREATE TABLE audit (
	number BIGINT NOT NULL, 
	at DOUBLE NOT NULL, 
	actor VARCHAR(64) NOT NULL, 
	action VARCHAR(64) NOT NULL, 
	target VARCHAR(128) NOT NULL, 
	request_id VARCHAR(128) NOT NULL, 
	detail TEXT NOT NULL, 
	digest VARCHAR(64) NOT NULL, 
	CONSTRAINT pk_audit PRIMARY KEY (number)
);
CREATE TABLE usage (
	id VARCHAR(64) NOT NULL, 
	request_id VARCHAR(128) NOT NULL, 
	tenant_id VARCHAR(64) NOT NULL, 
	key_id VARCHAR(64) NOT NULL, 
	model VARCHAR(128) NOT NULL, 
	state VARCHAR(32) NOT NULL, 
	started_at DOUBLE NOT NULL, 
	ended_at DOUBLE NOT NULL, 
	prompt_tokens BIGINT NOT NULL, 
	cached_tokens BIGINT NOT NULL, 
	completion_tokens BIGINT NOT NULL, 
	accepted_prediction_tokens BIGINT NOT NULL, cost_nanos BIGINT DEFAULT '0' NOT NULL, 
	CONSTRAINT pk_usage PRIMARY KEY (id)
);
CREATE INDEX ix_usage_ended ON usage (ended_at, id);
CREATE INDEX ix_usage_tenant_ended ON usage (tenant_id, ended_at);
CREATE TABLE usage_hours (
	hour BIGINT NOT NULL, 
	tenant_id VARCHAR(64) NOT NULL, 
	key_id VARCHAR(64) NOT NULL, 
	model VARCHAR(128) NOT NULL, 
	requests BIGINT NOT NULL, 
	prompt_tokens BIGINT NOT NULL, 
	cached_tokens BIGINT NOT NULL, 
	completion_tokens BIGINT NOT NULL, 
	accepted_prediction_tokens BIGINT NOT NULL, cost_nanos BIGINT DEFAULT '0' NOT NULL, 
	CONSTRAINT pk_usage_hours PRIMARY KEY (hour, tenant_id, key_id, model)
);
CREATE TABLE spending (
	subject VARCHAR(320) NOT NULL, 
	period VARCHAR(8) NOT NULL, 
	begins BIGINT NOT NULL, 
	tokens BIGINT NOT NULL, 
	cost_nanos BIGINT NOT NULL, 
	CONSTRAINT pk_spending PRIMARY KEY (subject, period, begins)
);
CREATE TABLE gateways (
	id VARCHAR(64) NOT NULL, 
	seen_at DOUBLE NOT NULL, 
	default_share INTEGER NOT NULL, 
	CONSTRAINT pk_gateways PRIMARY KEY (id)
);
CREATE TABLE shares (
	subject VARCHAR(320) NOT NULL, 
	gateway VARCHAR(64) NOT NULL, 
	share INTEGER NOT NULL, 
	wanted_at DOUBLE NOT NULL, 
	CONSTRAINT pk_shares PRIMARY KEY (subject, gateway)
);
INSERT INTO "schema_version" VALUES('0004');
INSERT INTO "state" VALUES(1,0);
