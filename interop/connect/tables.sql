-- The tables that the connectors fill, created once before the first start. The sink would create them itself, but fails
-- if the first record of a topic is a tombstone. It adds the optional fields of later releases as columns.
create schema crm;

create table crm.optins (
    id text primary key,
    "clientId" text,
    "sendId" text,
    "optinChannel" text not null,
    "optinType" text not null,
    "legalTextId" bigint,
    "isActive" boolean not null,
    "lastOpenedDate" timestamp,
    "contextId" bigint,
    "optinId" bigint not null,
    "visitorId" text not null,
    "optoutDate" timestamp,
    "optinDate" timestamp,
    "creationDate" timestamp not null,
    "updateDate" timestamp not null
);

create table crm.vehicles (
    id text primary key,
    "name" text,
    "maker" text,
    "color" text,
    "model" text,
    "licensePlate" text not null,
    "licensePlateCountry" text,
    "yearOfManufacture" bigint,
    "lastParkingSession" timestamp,
    "vehicleId" bigint not null,
    "visitorId" text not null,
    "deletionDate" timestamp,
    "creationDate" timestamp not null,
    "updateDate" timestamp not null
);

create table crm.parking_histories (
    id text primary key,
    "parkingSessionStart" timestamp,
    "parkingSessionEnd" timestamp,
    "parkingSessionId" bigint,
    "amount" bigint,
    "currency" text not null,
    "accessDevice" text not null,
    "exitAccessDevice" text,
    "formattedTotalTime" text,
    "paidAt" timestamp,
    "paidAtKiosk" boolean,
    "refundedAmount" numeric,
    "paymentStatus" text,
    "totalTime" bigint,
    "transactionFullAmount" numeric,
    "transactionId" text,
    "transactionPretaxAmount" numeric,
    "transactionTaxAmount" numeric,
    "validationAmount" numeric,
    "vendorId" text,
    "parkingId" bigint not null,
    "cardId" bigint not null,
    "pcCode" text not null,
    "parkingHistoryId" bigint not null,
    "creationDate" timestamp not null,
    "updateDate" timestamp not null,
    "visitorId" text not null
);
