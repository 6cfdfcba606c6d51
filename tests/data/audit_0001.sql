BEGIN TRANSACTION;
CREATE TABLE activation (
    id INTEGER NOT NULL,
    package_id INTEGER NOT NULL,
    accepted_gates JSON NOT NULL,
    actor VARCHAR NOT NULL,
    reason VARCHAR NOT NULL,
    at DATETIME NOT NULL,
    CONSTRAINT pk_activation PRIMARY KEY (id),
    CONSTRAINT fk_activation_package_id FOREIGN KEY(package_id) REFERENCES package (id)
);
INSERT INTO "activation" VALUES(1,1,'["subgroups"]','cxr','first','2026-01-10 12:00:00.000000');
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('0001');
CREATE TABLE decision (
    image_id INTEGER NOT NULL,
    "view" VARCHAR(16) NOT NULL,
    is_chest BOOLEAN,
    reason VARCHAR NOT NULL,
    evidence JSON NOT NULL,
    decided_at DATETIME NOT NULL,
    CONSTRAINT pk_decision PRIMARY KEY (image_id),
    CONSTRAINT fk_decision_image_id FOREIGN KEY(image_id) REFERENCES image (id),
    CONSTRAINT ck_decision_view CHECK ("view" IN ('frontal', 'not_frontal', 'unknown'))
);
INSERT INTO "decision" VALUES(1,'frontal',1,'view_position_frontal','{}','2026-01-10 12:00:00.000000');
INSERT INTO "decision" VALUES(2,'frontal',1,'view_position_frontal','{}','2026-01-10 12:00:00.000000');
INSERT INTO "decision" VALUES(3,'frontal',1,'view_position_frontal','{}','2026-01-10 12:00:00.000000');
INSERT INTO "decision" VALUES(4,'not_frontal',1,'view_position_not_frontal','{}','2026-01-10 12:00:00.000000');
INSERT INTO "decision" VALUES(5,'frontal',1,'view_position_frontal','{}','2026-01-10 12:00:00.000000');
INSERT INTO "decision" VALUES(6,'frontal',1,'view_position_frontal','{}','2026-01-10 12:00:00.000000');
INSERT INTO "decision" VALUES(7,'frontal',1,'view_position_frontal','{}','2026-01-10 12:00:00.000000');
CREATE TABLE delivery (
    id INTEGER NOT NULL,
    report_id INTEGER NOT NULL,
    job_id INTEGER NOT NULL,
    destination VARCHAR(32) NOT NULL,
    state VARCHAR(16) NOT NULL,
    attempts INTEGER NOT NULL,
    due_at DATETIME,
    sender_id VARCHAR,
    lease_until DATETIME,
    status INTEGER,
    error_code VARCHAR,
    delivered_sop_class_uid VARCHAR(64),
    delivered_sop_instance_uid VARCHAR(64),
    sent_at DATETIME,
    verified_at DATETIME,
    verified_by VARCHAR,
    requeued_at DATETIME,
    created_at DATETIME NOT NULL,
    updated_at DATETIME NOT NULL,
    CONSTRAINT pk_delivery PRIMARY KEY (id),
    CONSTRAINT uq_delivery_report_id_destination UNIQUE (report_id, destination),
    CONSTRAINT fk_delivery_report_id FOREIGN KEY(report_id) REFERENCES report (id),
    CONSTRAINT fk_delivery_job_id FOREIGN KEY(job_id) REFERENCES job (id),
    CONSTRAINT ck_delivery_state CHECK (state IN ('pending', 'sent', 'verified', 'dead'))
);
INSERT INTO "delivery" VALUES(1,1,1,'pacs','pending',0,'2026-01-10 12:00:00.000000',NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,'2026-01-10 12:00:00.000000','2026-01-10 12:00:00.000000');
INSERT INTO "delivery" VALUES(2,2,2,'pacs','pending',0,'2026-01-10 12:00:00.000000',NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,'2026-01-10 12:00:00.000000','2026-01-10 12:00:00.000000');
INSERT INTO "delivery" VALUES(3,3,3,'pacs','dead',1,NULL,NULL,NULL,43264,'peer_refused',NULL,NULL,NULL,NULL,NULL,NULL,'2026-01-10 12:00:00.000000','2026-01-10 12:00:00.000000');
CREATE TABLE event (
    id INTEGER NOT NULL,
    at DATETIME NOT NULL,
    kind VARCHAR(32) NOT NULL,
    image_id INTEGER,
    job_id INTEGER,
    report_id INTEGER,
    delivery_id INTEGER,
    facts VARCHAR NOT NULL,
    hash VARCHAR(64) NOT NULL,
    CONSTRAINT pk_event PRIMARY KEY (id)
);
INSERT INTO "event" VALUES(1,'2026-01-10 12:00:00.000000','database_created',NULL,NULL,NULL,NULL,'{}','6775c46099024e37f8502c7dd64be35035a4ffe8590fade7faf1674157d77d5a');
INSERT INTO "event" VALUES(2,'2026-01-10 12:00:00.000000','package_activated',NULL,NULL,NULL,NULL,'{"accepted_subgroups":true,"fingerprint":"bc4a71180870f7945155fbb02f4b0a2e3faa2a62d6d31b7039013055ed19869a","package":1,"status":"evaluated"}','5c731dac3d21f86e75e6bb0ce5e9491ed9a20a42c4d2ac01ebdca5f0adc9234e');
INSERT INTO "event" VALUES(3,'2026-01-10 12:00:00.000000','received',1,1,NULL,NULL,'{"is_chest":true,"reason":"view_position_frontal","seal":"a79e7614bb7cf68ba1178ba6071107e5f3c96f94d63377fafe3adce0e2b33bfb","state":"queued","view":"frontal"}','e687c3656ac7c7e43c61e0cc9674e0ba96386ebbd2b7bd0f18d548291620e513');
INSERT INTO "event" VALUES(4,'2026-01-10 12:00:00.000000','job_claimed',1,1,NULL,NULL,'{"attempt":1,"state":"scoring"}','0389d0624b66f76eff5d2ca4fca18e20740cad0a21791c2598ad6a7feee31811');
INSERT INTO "event" VALUES(5,'2026-01-10 12:00:00.000000','report_written',1,1,1,NULL,'{"kind":"sr"}','3be558fe41ffd0f1da89dde9d2a0b5ae10db43d63ecd2e5f05ae979c9e862d6e');
INSERT INTO "event" VALUES(6,'2026-01-10 12:00:00.000000','delivery_created',1,1,1,1,'{"state":"pending"}','9cea08375ac11fb100aa84160a0a1045c9ea188d1c17ab4184d865eb91f5fd9b');
INSERT INTO "event" VALUES(7,'2026-01-10 12:00:00.000000','job_reported',1,1,NULL,NULL,'{"attempt":1,"fingerprint":"bc4a71180870f7945155fbb02f4b0a2e3faa2a62d6d31b7039013055ed19869a","score_covid19":0.2857142857142857,"score_normal":0.9,"state":"reported"}','69ade60890fbd0464fe2cfc59778531a8c8856b52d2b2493e2c4a258fb2f09f7');
INSERT INTO "event" VALUES(8,'2026-01-10 12:00:00.000000','changed_resend',2,2,NULL,NULL,'{"is_chest":true,"previous_image":1,"reason":"view_position_frontal","same_pixels":false,"seal":"c8e5a882863a71eb3a4cabd316dc06279cfc23f74e5f3f4fd2003a4835d75410","state":"queued","view":"frontal"}','7d88c747b467da4d19fbe36425675f87cd460844f95a3bd0a27b8c59d7b54547');
INSERT INTO "event" VALUES(9,'2026-01-10 12:00:00.000000','job_claimed',2,2,NULL,NULL,'{"attempt":1,"state":"scoring"}','8fe272671af010a6aa1663ad14828760dd59191b0342311727403e4c53202f32');
INSERT INTO "event" VALUES(10,'2026-01-10 12:00:00.000000','report_written',2,2,2,NULL,'{"kind":"sr"}','53ace674559c24a9d2d552b89ef68c6406f92729d7f72ab19d144e44a4e6cc1e');
INSERT INTO "event" VALUES(11,'2026-01-10 12:00:00.000000','delivery_created',2,2,2,2,'{"state":"pending"}','7ddafccebecfdc5c5e7677e29de0d90b280566228cd70eda28dbbae9518c345f');
INSERT INTO "event" VALUES(12,'2026-01-10 12:00:00.000000','job_reported',2,2,NULL,NULL,'{"attempt":1,"fingerprint":"bc4a71180870f7945155fbb02f4b0a2e3faa2a62d6d31b7039013055ed19869a","score_covid19":0.42857142857142855,"score_normal":0.9,"state":"reported"}','3293ce0d2c967d18a6364de221fd23c9657b84a701622634d29809420761bdfe');
INSERT INTO "event" VALUES(13,'2026-01-10 12:00:00.000000','received',3,3,NULL,NULL,'{"is_chest":true,"reason":"view_position_frontal","seal":"a5f1a5506db3446929239fa9fbea34b5ea339a9fa2a68c857d78c0c07944e4e6","state":"queued","view":"frontal"}','b25ff7aadbf6e67515f2a2549a800d1a388c77ffb94268fb40a8c27809e88c69');
INSERT INTO "event" VALUES(14,'2026-01-10 12:00:00.000000','job_claimed',3,3,NULL,NULL,'{"attempt":1,"state":"scoring"}','d1f826ba82b30c92c59135740159d27b49912bdee95f65d06efaed663bab4a7f');
INSERT INTO "event" VALUES(15,'2026-01-10 12:00:00.000000','report_written',3,3,3,NULL,'{"kind":"sr"}','3dd7af4b41962fbf5a413a413798296cdeb67b70702f7c57ff947c9e6750e82a');
INSERT INTO "event" VALUES(16,'2026-01-10 12:00:00.000000','delivery_created',3,3,3,3,'{"state":"pending"}','ba27a970a742e5e4f4a985d03be0d176617f51ee8c9fd78d712072f576d15094');
INSERT INTO "event" VALUES(17,'2026-01-10 12:00:00.000000','job_reported',3,3,NULL,NULL,'{"attempt":1,"fingerprint":"bc4a71180870f7945155fbb02f4b0a2e3faa2a62d6d31b7039013055ed19869a","score_covid19":0.5714285714285714,"score_normal":0.9,"state":"reported"}','841efc156112e3ae1e54445c5f0186ca54ab473c3a61034defdd1a955ef63804');
INSERT INTO "event" VALUES(18,'2026-01-10 12:00:00.000000','delivery_dead',3,3,3,3,'{"attempt":1,"code":"peer_refused","state":"dead","status":43264}','c1e7587d2ef9dc5123abd10ca541151c7859fe6196481c423a6da5ef9695dc51');
INSERT INTO "event" VALUES(19,'2026-01-10 12:00:00.000000','received',4,4,NULL,NULL,'{"is_chest":true,"reason":"view_position_not_frontal","seal":"0a7005beab33d7e6763fa771b8d9f34d81efbc0dfdb690951a2a1c7b117503e7","state":"not_scored","view":"not_frontal"}','b19a197cf19527ca3816bc676beabf00dcf90a600f2d18d17f3c5a8792ac9b24');
INSERT INTO "event" VALUES(20,'2026-01-10 12:00:00.000000','received',5,5,NULL,NULL,'{"is_chest":true,"reason":"view_position_frontal","seal":"93e945950fde719b028a548b2dd2a1b2f4c6b41f124f5d3bbc34e98a6e83a3bb","state":"held","view":"frontal"}','40625c7087a20460171f48d6d4c025c0d5ab24792bcfcf963a1287eed07a04ff');
INSERT INTO "event" VALUES(21,'2026-01-10 12:00:00.000000','received',6,6,NULL,NULL,'{"is_chest":true,"reason":"view_position_frontal","seal":"426b298d60262f3bd954877dfeafed2436298bbf74239e14fc5b6ddaa661ab78","state":"queued","view":"frontal"}','8651c3a54907d679cd8882dfb01b696dfe4b4e7c2f4423e1a128654bd14adc80');
INSERT INTO "event" VALUES(22,'2026-01-10 12:00:00.000000','received',7,7,NULL,NULL,'{"is_chest":true,"reason":"view_position_frontal","seal":"9a6985dc8c66ef041d31e4a832dd4c4252d69a2fe8c4481a8bc2aaa4222e1b2b","state":"queued","view":"frontal"}','0b11180b37cb62bbccca04e4aeef63aade11002ae0a777324a51ba99c1e9bd0c');
INSERT INTO "event" VALUES(23,'2026-01-10 12:01:00.000000','job_claimed',6,6,NULL,NULL,'{"attempt":1,"state":"scoring"}','6d1104c0bc46274fb5129726043373eea7d1f64113c1a64e93d0f6dc37cdbaf8');
INSERT INTO "event" VALUES(24,'2026-01-10 12:00:00.000000','job_failed',6,6,NULL,NULL,'{"attempt":1,"code":"damaged_pixels","state":"failed"}','44db35c396ad67108f6165ae23a054e05adf316689b343cfd4b4944c0bf4fa9b');
CREATE TABLE image (
    id INTEGER NOT NULL,
    sop_class_uid VARCHAR(64) NOT NULL,
    sop_instance_uid VARCHAR(64) NOT NULL,
    study_instance_uid VARCHAR(64),
    series_instance_uid VARCHAR(64),
    accession_number VARCHAR,
    patient_id VARCHAR,
    study_date VARCHAR,
    modality VARCHAR,
    body_part_examined VARCHAR,
    rows INTEGER,
    columns INTEGER,
    peer_ae_title VARCHAR(16) NOT NULL,
    transfer_syntax_uid VARCHAR(64) NOT NULL,
    size_bytes INTEGER NOT NULL,
    dataset_digest VARCHAR(64) NOT NULL,
    pixel_digest VARCHAR(64),
    identity_digest VARCHAR(64) NOT NULL,
    spool_name VARCHAR,
    pixels_removed_at DATETIME,
    seal_salt VARCHAR,
    received_at DATETIME NOT NULL,
    CONSTRAINT pk_image PRIMARY KEY (id),
    CONSTRAINT uq_image_spool_name UNIQUE (spool_name)
);
INSERT INTO "image" VALUES(1,'1.2.840.10008.5.1.4.1.1.1','1.2.3.1','1.2.4.1','1.2.5.1','ACC1','SYN1',NULL,NULL,NULL,NULL,NULL,'MODALITY','1.2.840.10008.1.2.1',1000,'0000000000000000000000000000000000000000000000000000000000000100','0000000000000000000000000000000000000000000000000000000000000100','0000000000000000000000000000000000000000000000000000000000000001','00000000000000000000000000000010.dcm',NULL,'4f088a35d5c209f011a0f7c4b4523e45','2026-01-10 12:00:00.000000');
INSERT INTO "image" VALUES(2,'1.2.840.10008.5.1.4.1.1.1','1.2.3.1','1.2.4.1','1.2.5.1','ACC1','SYN1',NULL,NULL,NULL,NULL,NULL,'MODALITY','1.2.840.10008.1.2.1',1000,'0000000000000000000000000000000000000000000000000000000000000101','0000000000000000000000000000000000000000000000000000000000000101','0000000000000000000000000000000000000000000000000000000000000001','00000000000000000000000000000011.dcm',NULL,'a173cf1689c416e7f2ccf614a29c6965','2026-01-10 12:00:00.000000');
INSERT INTO "image" VALUES(3,'1.2.840.10008.5.1.4.1.1.1','1.2.3.2','1.2.4.2','1.2.5.2','ACC2','SYN2',NULL,NULL,NULL,NULL,NULL,'MODALITY','1.2.840.10008.1.2.1',1000,'0000000000000000000000000000000000000000000000000000000000000200','0000000000000000000000000000000000000000000000000000000000000200','0000000000000000000000000000000000000000000000000000000000000002','00000000000000000000000000000020.dcm',NULL,'f46aacced5c696b95a4e6f87ffd02195','2026-01-10 12:00:00.000000');
INSERT INTO "image" VALUES(4,'1.2.840.10008.5.1.4.1.1.1','1.2.3.3','1.2.4.3','1.2.5.3','ACC3','SYN3',NULL,NULL,NULL,NULL,NULL,'MODALITY','1.2.840.10008.1.2.1',1000,'0000000000000000000000000000000000000000000000000000000000000300','0000000000000000000000000000000000000000000000000000000000000300','0000000000000000000000000000000000000000000000000000000000000003',NULL,NULL,'be818dc726b47ecbee4b6c855abe09b2','2026-01-10 12:00:00.000000');
INSERT INTO "image" VALUES(5,'1.2.840.10008.5.1.4.1.1.1','1.2.3.4','1.2.4.4','1.2.5.4','ACC4','SYN4',NULL,NULL,NULL,NULL,NULL,'MODALITY','1.2.840.10008.1.2.1',1000,'0000000000000000000000000000000000000000000000000000000000000400','0000000000000000000000000000000000000000000000000000000000000400','0000000000000000000000000000000000000000000000000000000000000004','00000000000000000000000000000040.dcm',NULL,'8cfe1f57e82a8fc0d39c9ec98a7262af','2026-01-10 12:00:00.000000');
INSERT INTO "image" VALUES(6,'1.2.840.10008.5.1.4.1.1.1','1.2.3.5','1.2.4.5','1.2.5.5','ACC5','SYN5',NULL,NULL,NULL,NULL,NULL,'MODALITY','1.2.840.10008.1.2.1',1000,'0000000000000000000000000000000000000000000000000000000000000500','0000000000000000000000000000000000000000000000000000000000000500','0000000000000000000000000000000000000000000000000000000000000005','00000000000000000000000000000050.dcm',NULL,'f79e20a713df61b15ca17fdbc9caf471','2026-01-10 12:00:00.000000');
INSERT INTO "image" VALUES(7,'1.2.840.10008.5.1.4.1.1.1','1.2.3.6','1.2.4.6','1.2.5.6','ACC6','SYN6',NULL,NULL,NULL,NULL,NULL,'MODALITY','1.2.840.10008.1.2.1',1000,'0000000000000000000000000000000000000000000000000000000000000600','0000000000000000000000000000000000000000000000000000000000000600','0000000000000000000000000000000000000000000000000000000000000006','00000000000000000000000000000060.dcm',NULL,'0274ddc423998714b6ae9c168880118f','2026-01-10 12:00:00.000000');
CREATE TABLE job (
    id INTEGER NOT NULL,
    image_id INTEGER NOT NULL,
    state VARCHAR(16) NOT NULL,
    reason VARCHAR NOT NULL,
    attempts INTEGER NOT NULL,
    not_before DATETIME,
    worker_id VARCHAR,
    lease_until DATETIME,
    error_code VARCHAR,
    package_id INTEGER,
    device VARCHAR,
    warnings JSON,
    scored_at DATETIME,
    created_at DATETIME NOT NULL,
    updated_at DATETIME NOT NULL,
    CONSTRAINT pk_job PRIMARY KEY (id),
    CONSTRAINT uq_job_image_id UNIQUE (image_id),
    CONSTRAINT fk_job_image_id FOREIGN KEY(image_id) REFERENCES image (id),
    CONSTRAINT ck_job_state CHECK (state IN ('held', 'queued', 'scoring', 'reported', 'not_scored', 'failed')),
    CONSTRAINT fk_job_package_id FOREIGN KEY(package_id) REFERENCES package (id)
);
INSERT INTO "job" VALUES(1,1,'reported','view_position_frontal',1,NULL,NULL,NULL,NULL,1,'cpu','["aspect"]','2026-01-10 12:00:00.000000','2026-01-10 12:00:00.000000','2026-01-10 12:00:00.000000');
INSERT INTO "job" VALUES(2,2,'reported','view_position_frontal',1,NULL,NULL,NULL,NULL,1,'cpu','["aspect"]','2026-01-10 12:00:00.000000','2026-01-10 12:00:00.000000','2026-01-10 12:00:00.000000');
INSERT INTO "job" VALUES(3,3,'reported','view_position_frontal',1,NULL,NULL,NULL,NULL,1,'cpu','["aspect"]','2026-01-10 12:00:00.000000','2026-01-10 12:00:00.000000','2026-01-10 12:00:00.000000');
INSERT INTO "job" VALUES(4,4,'not_scored','view_position_not_frontal',0,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,'2026-01-10 12:00:00.000000','2026-01-10 12:00:00.000000');
INSERT INTO "job" VALUES(5,5,'held','view_position_frontal',0,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,'2026-01-10 12:00:00.000000','2026-01-10 12:00:00.000000');
INSERT INTO "job" VALUES(6,6,'failed','view_position_frontal',1,NULL,NULL,NULL,'damaged_pixels',NULL,NULL,NULL,NULL,'2026-01-10 12:00:00.000000','2026-01-10 12:00:00.000000');
INSERT INTO "job" VALUES(7,7,'queued','view_position_frontal',0,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,'2026-01-10 12:00:00.000000','2026-01-10 12:00:00.000000');
CREATE TABLE job_report (
    job_id INTEGER NOT NULL,
    report_id INTEGER NOT NULL,
    CONSTRAINT pk_job_report PRIMARY KEY (job_id, report_id),
    CONSTRAINT fk_job_report_job_id FOREIGN KEY(job_id) REFERENCES job (id),
    CONSTRAINT fk_job_report_report_id FOREIGN KEY(report_id) REFERENCES report (id)
);
INSERT INTO "job_report" VALUES(1,1);
INSERT INTO "job_report" VALUES(2,2);
INSERT INTO "job_report" VALUES(3,3);
CREATE TABLE lease (
    name VARCHAR(32) NOT NULL,
    holder VARCHAR NOT NULL,
    expires_at DATETIME NOT NULL,
    CONSTRAINT pk_lease PRIMARY KEY (name)
);
CREATE TABLE package (
    id INTEGER NOT NULL,
    fingerprint VARCHAR(64) NOT NULL,
    name VARCHAR NOT NULL,
    version VARCHAR NOT NULL,
    status VARCHAR(16) NOT NULL,
    first_seen_at DATETIME NOT NULL,
    CONSTRAINT pk_package PRIMARY KEY (id),
    CONSTRAINT uq_package_fingerprint_name_version_status UNIQUE (fingerprint, name, version, status),
    CONSTRAINT ck_package_status CHECK (status IN ('untrained', 'demonstration', 'evaluated'))
);
INSERT INTO "package" VALUES(1,'bc4a71180870f7945155fbb02f4b0a2e3faa2a62d6d31b7039013055ed19869a','resnet50','1.0.0','evaluated','2026-01-10 12:00:00.000000');
CREATE TABLE report (
    id INTEGER NOT NULL,
    kind VARCHAR(16) NOT NULL,
    sop_class_uid VARCHAR(64) NOT NULL,
    sop_instance_uid VARCHAR(64) NOT NULL,
    series_instance_uid VARCHAR(64) NOT NULL,
    spool_name VARCHAR,
    content_digest VARCHAR(64) NOT NULL,
    created_at DATETIME NOT NULL,
    removed_at DATETIME,
    CONSTRAINT pk_report PRIMARY KEY (id),
    CONSTRAINT uq_report_sop_instance_uid UNIQUE (sop_instance_uid),
    CONSTRAINT uq_report_spool_name UNIQUE (spool_name)
);
INSERT INTO "report" VALUES(1,'sr','1.2.840.10008.5.1.4.1.1.88.34','2.25.21','2.25.22','sr000000000000000000000000000002.dcm','0000000000000000000000000000000000000000000000000000000000000002','2026-01-10 12:00:00.000000',NULL);
INSERT INTO "report" VALUES(2,'sr','1.2.840.10008.5.1.4.1.1.88.34','2.25.31','2.25.32','sr000000000000000000000000000003.dcm','0000000000000000000000000000000000000000000000000000000000000003','2026-01-10 12:00:00.000000',NULL);
INSERT INTO "report" VALUES(3,'sr','1.2.840.10008.5.1.4.1.1.88.34','2.25.41','2.25.42','sr000000000000000000000000000004.dcm','0000000000000000000000000000000000000000000000000000000000000004','2026-01-10 12:00:00.000000',NULL);
CREATE TABLE score (
    id INTEGER NOT NULL,
    job_id INTEGER NOT NULL,
    finding VARCHAR NOT NULL,
    score DOUBLE NOT NULL,
    threshold DOUBLE,
    CONSTRAINT pk_score PRIMARY KEY (id),
    CONSTRAINT uq_score_job_id_finding UNIQUE (job_id, finding),
    CONSTRAINT fk_score_job_id FOREIGN KEY(job_id) REFERENCES job (id)
);
INSERT INTO "score" VALUES(1,1,'covid19',2.85714285714285698425e-01,0.5);
INSERT INTO "score" VALUES(2,1,'normal',0.9,NULL);
INSERT INTO "score" VALUES(3,2,'covid19',4.28571428571428547638e-01,0.5);
INSERT INTO "score" VALUES(4,2,'normal',0.9,NULL);
INSERT INTO "score" VALUES(5,3,'covid19',5.7142857142857139685e-01,0.5);
INSERT INTO "score" VALUES(6,3,'normal',0.9,NULL);
CREATE INDEX ix_event_at ON event (at);
CREATE INDEX ix_event_image_id ON event (image_id);
CREATE INDEX ix_image_accession_number ON image (accession_number);
CREATE INDEX ix_image_patient_id ON image (patient_id);
CREATE INDEX ix_image_received_at ON image (received_at);
CREATE INDEX ix_image_sop_instance_uid ON image (sop_instance_uid);
CREATE INDEX ix_image_study_instance_uid ON image (study_instance_uid);
CREATE INDEX ix_report_created_at ON report (created_at);
CREATE INDEX ix_activation_package_id ON activation (package_id);
CREATE INDEX ix_job_package_id ON job (package_id);
CREATE INDEX ix_job_state ON job (state);
CREATE INDEX ix_delivery_destination_due_at ON delivery (destination, due_at);
CREATE INDEX ix_delivery_job_id ON delivery (job_id);
CREATE INDEX ix_delivery_state ON delivery (state);
CREATE INDEX ix_job_report_report_id ON job_report (report_id);
CREATE INDEX ix_score_finding_score ON score (finding, score);
CREATE VIEW results AS
SELECT
    image.id AS image_id, job.id AS job_id,
    image.sop_instance_uid, image.study_instance_uid, image.series_instance_uid,
    image.accession_number, image.patient_id, image.study_date, image.modality,
    image.peer_ae_title, image.received_at,
    job.state, decision.view, decision.is_chest, job.reason,
    score.finding, score.score, score.threshold, score.score >= score.threshold AS at_or_above,
    package.name AS model, package.version AS model_version, package.fingerprint,
    package.status AS model_status, job.scored_at, job.error_code,
    (
        SELECT min(delivery.state IN ('sent', 'verified'))
        FROM job_report JOIN delivery ON delivery.report_id = job_report.report_id
        WHERE job_report.job_id = job.id
    ) AS delivered,
    NOT EXISTS (
        SELECT 1 FROM image AS newer
        WHERE newer.sop_instance_uid = image.sop_instance_uid AND newer.id > image.id
    ) AS is_latest
FROM image
JOIN decision ON decision.image_id = image.id
JOIN job ON job.image_id = image.id
LEFT JOIN score ON score.job_id = job.id
LEFT JOIN package ON package.id = job.package_id;
CREATE VIEW images AS
SELECT
    image.id AS image_id, image.sop_class_uid,
    image.sop_instance_uid, image.study_instance_uid, image.series_instance_uid,
    image.accession_number, image.patient_id, image.study_date, image.modality,
    image.body_part_examined, image.rows, image.columns,
    image.peer_ae_title, image.transfer_syntax_uid, image.size_bytes, image.received_at,
    image.spool_name IS NOT NULL AS has_pixels, image.pixels_removed_at,
    job.state,
    (SELECT count(*) FROM event WHERE event.image_id = image.id AND event.kind = 'resent') AS resends,
    NOT EXISTS (
        SELECT 1 FROM image AS newer
        WHERE newer.sop_instance_uid = image.sop_instance_uid AND newer.id > image.id
    ) AS is_latest
FROM image
JOIN job ON job.image_id = image.id;
CREATE VIEW decisions AS
SELECT
    image.id AS image_id, image.sop_instance_uid, decision.view, decision.is_chest,
    decision.reason, decision.evidence, decision.decided_at
FROM decision
JOIN image ON image.id = decision.image_id;
CREATE VIEW jobs AS
SELECT
    job.id AS job_id, job.image_id, image.sop_instance_uid, job.state, job.reason, job.attempts,
    job.not_before, job.error_code, job.device, job.warnings, job.scored_at,
    job.created_at, job.updated_at
FROM job
JOIN image ON image.id = job.image_id;
CREATE VIEW scores AS
SELECT
    job.image_id, score.job_id, score.finding, score.score, score.threshold,
    package.name AS model, package.version AS model_version, package.fingerprint
FROM score
JOIN job ON job.id = score.job_id
JOIN package ON package.id = job.package_id;
CREATE VIEW reports AS
SELECT
    report.id AS report_id, job.id AS job_id, job.image_id,
    image.sop_instance_uid AS source_sop_instance_uid, image.study_instance_uid,
    report.kind, report.sop_class_uid, report.sop_instance_uid, report.series_instance_uid,
    report.content_digest, report.created_at, report.removed_at
FROM report
JOIN job_report ON job_report.report_id = report.id
JOIN job ON job.id = job_report.job_id
JOIN image ON image.id = job.image_id;
CREATE VIEW deliveries AS
SELECT
    delivery.id AS delivery_id, delivery.report_id, delivery.job_id, job.image_id,
    image.sop_instance_uid AS source_sop_instance_uid, image.study_instance_uid,
    coalesce(delivery.delivered_sop_instance_uid, report.sop_instance_uid) AS sop_instance_uid,
    delivery.destination, delivery.state, delivery.attempts, delivery.due_at,
    delivery.status, delivery.error_code, delivery.sent_at, delivery.verified_at,
    delivery.verified_by, delivery.created_at, delivery.updated_at
FROM delivery
JOIN report ON report.id = delivery.report_id
JOIN job ON job.id = delivery.job_id
JOIN image ON image.id = job.image_id;
CREATE VIEW events AS
SELECT
    event.id AS event_id, event.at, event.kind, event.image_id, event.job_id, event.report_id,
    event.delivery_id, event.facts, event.hash
FROM event;
CREATE VIEW models AS
SELECT
    package.fingerprint, package.name AS model, package.version AS model_version,
    package.status AS model_status, package.first_seen_at,
    (SELECT max(activation.at) FROM activation WHERE activation.package_id = package.id) AS activated_at,
    (SELECT count(*) FROM job WHERE job.package_id = package.id) AS images
FROM package;
CREATE VIEW activations AS
SELECT
    activation.id AS activation_id, activation.at, package.fingerprint, package.name AS model,
    package.version AS model_version, package.status AS model_status,
    activation.accepted_gates, activation.actor, activation.reason
FROM activation
JOIN package ON package.id = activation.package_id;
CREATE TRIGGER event_no_update
BEFORE UPDATE ON event
BEGIN
    SELECT RAISE(ABORT, 'events are never changed');
END;
CREATE TRIGGER event_no_delete
BEFORE DELETE ON event
BEGIN
    SELECT RAISE(ABORT, 'events are never deleted');
END;
CREATE TRIGGER event_in_order
BEFORE INSERT ON event
WHEN NEW.id IS NOT (SELECT coalesce(max(id), 0) + 1 FROM event)
BEGIN
    SELECT RAISE(ABORT, 'events are numbered without gaps');
END;
COMMIT;
