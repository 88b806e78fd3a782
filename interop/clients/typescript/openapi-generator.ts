// A tour with the client that openapi-generator generates. Arguments: URL, pcCode, email, licence plate.
import assert from "node:assert";
import {
  CentersApi, CheckinNewOriginEnum, CheckinsApi, Configuration, CountryCode, OptinsApi, ParkingApi, ParkingPartner,
  PointsApi, ServicesApi, VisitorNewGenderEnum, VisitorsApi, VisitsApi, VisitsCreateVisitTypeEnum,
} from "./target/fetch";

async function main(url: string, pcCode: string, email: string, plate: string) {
  const configuration = new Configuration({ basePath: url });
  await new CentersApi(configuration).centersCreate({
    centerNew: { label: "Les 4 Temps", country: CountryCode.Fr, isWestfield: true, pcCode },
  });
  const visitors = new VisitorsApi(configuration);
  const visitor = await visitors.visitorsCreate({
    visitorNew: {
      firstName: "Ada", lastName: "Martin", email, gender: VisitorNewGenderEnum.F, countryCode: CountryCode.Fr,
      acquisitionPcCode: pcCode, timezone: null, optins: [],
    },
  });
  const visitorId = visitor.data.visitorId;
  const parking = new ParkingApi(configuration);
  await parking.vehiclesCreate({ visitorId, vehicleFields: { licensePlate: plate } });
  const visit = await new VisitsApi(configuration).visitsCreate({
    visitType: VisitsCreateVisitTypeEnum.Entry, visitNew: { pcCode, licensePlate: plate },
  });
  assert.equal(visit.visitorId, visitorId);
  const service = await new ServicesApi(configuration).servicesCreate({
    serviceNew: {
      pcCode, name: "Cloakroom", category: "comfort", useRate: "free", daysOfUse: [1, 2], colorCode: "#336699",
    },
  });
  await new CheckinsApi(configuration).checkinsCreate({
    visitorId, checkinNew: { pcCode, serviceId: service.data.serviceId, origin: CheckinNewOriginEnum.Partner },
  });
  const optin = await new OptinsApi(configuration).optinsCreate({
    visitorId, optinNew: { optinChannel: "email", optinType: "loyalty", isActive: true },
  });
  assert(optin.data.isActive);

  const points = new PointsApi(configuration);
  const texts = [{ localeCode: "fr-FR", value: "10 000 pas" }];
  const year = new Date().getUTCFullYear();
  const challenge = await points.challengesCreate({
    challengeNew: {
      pcCode, genericName: "Steps", type: "step_counter", status: "active", startDate: new Date(Date.UTC(year - 1, 0)),
      endDate: new Date(Date.UTC(year + 2, 0)), winnerNumber: 1, displayName: texts, description: texts,
      rewardDetail: texts,
    },
  });
  const participant = await points.visitorChallengesCreate({
    visitorId, visitorChallengeNew: { challengeId: challenge.data.challengeId },
  });
  const visitorChallengeId = participant.data.visitorChallengeId;
  await points.visitorChallengesAddPoints({ visitorId, visitorChallengeId, points: { points: 10 } });
  const standing = (await points.rankingsList({ visitorId })).data[0].topRanking[0];

  const subscription = await parking.parkingsCreate({
    visitorId, parkingNew: { parkingPartner: ParkingPartner.Designa },
  });
  const card = await parking.creditCardsCreate({
    visitorId,
    cardNew: {
      firstName: "Ada", lastName: "Martin", year: 2030, month: 11, fingerprint: "f", cardType: "visa",
      firstSixDigits: "424242", lastFourDigits: "4242", paymentMethodToken: "token",
    },
  });
  const history = await parking.parkingHistoriesCreate({
    visitorId,
    historyNew: {
      parkingId: subscription.data.parkingId, cardId: card.data.cardId, pcCode, currency: "EUR", accessDevice: plate,
      amount: 12, transactionFullAmount: 12.5,
    },
  });
  assert.equal(history.data.transactionFullAmount, 12.5);
  const month = (await parking.parkingHistoriesSummary({ visitorId, timezone: "Europe/Paris" })).data[0];
  const ids = await visitors.externalIdsList({ visitorId });
  const analyticsId = ids.data.find((row) => row.externalType === "analytics")!.externalId;
  const erased = await visitors.visitorsEraseByAnalyticsId({ erasure: [{ analyticsId }] });
  const isErased = erased.data.success.length === 1 && erased.data.success[0] === analyticsId;
  console.log(JSON.stringify([standing.position, standing.points, month.totalAmount, isErased]));
}

const [url, pcCode, email, plate] = process.argv.slice(2);
main(url, pcCode, email, plate).catch((error) => { console.error(error); process.exit(1); });
