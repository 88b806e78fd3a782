// A tour with openapi-fetch and the types that openapi-typescript generates. Arguments: URL, pcCode, email, licence plate.
import assert from "node:assert";
import createClient from "openapi-fetch";
import type { paths } from "./target/api";

/** The body of a successful answer. */
function data<Data, Error>(answer: { data?: Data; error?: Error }): Data {
  if (answer.data === undefined) throw new Error(JSON.stringify(answer.error));
  return answer.data;
}

async function main(url: string, pcCode: string, email: string, plate: string) {
  const client = createClient<paths>({ baseUrl: url });
  await client.POST("/centers", { body: { label: "Les 4 Temps", country: "FR", isWestfield: true, pcCode } });
  const visitor = data(await client.POST("/visitors", {
    body: {
      firstName: "Ada", lastName: "Martin", email, gender: "f", countryCode: "FR", acquisitionPcCode: pcCode,
      timezone: null, optins: [],
    },
  }));
  const path = { visitorId: visitor.data.visitorId };
  data(await client.POST("/visitors/{visitorId}/vehicles", { params: { path }, body: { licensePlate: plate } }));
  const visit = data(await client.POST("/visits/{visitType}", {
    params: { path: { visitType: "entry" } }, body: { pcCode, licensePlate: plate },
  }));
  assert.equal(visit.visitorId, path.visitorId);
  const service = data(await client.POST("/services", {
    body: { pcCode, name: "Cloakroom", category: "comfort", useRate: "free", daysOfUse: [1, 2], colorCode: "#336699" },
  }));
  data(await client.POST("/visitors/{visitorId}/checkins", {
    params: { path }, body: { pcCode, serviceId: service.data.serviceId, origin: "partner" },
  }));
  const optin = data(await client.POST("/visitors/{visitorId}/optins", {
    params: { path }, body: { optinChannel: "email", optinType: "loyalty", isActive: true },
  }));
  assert(optin.data.isActive);

  const texts = [{ localeCode: "fr-FR", value: "10 000 pas" }];
  const year = new Date().getUTCFullYear();
  const challenge = data(await client.POST("/challenges", {
    body: {
      pcCode, genericName: "Steps", type: "step_counter", status: "active", startDate: `${year - 1}-01-01T00:00:00Z`,
      endDate: `${year + 2}-01-01T00:00:00Z`, winnerNumber: 1, displayName: texts, description: texts,
      rewardDetail: texts,
    },
  }));
  const participant = data(await client.POST("/visitors/{visitorId}/visitorChallenges", {
    params: { path }, body: { challengeId: challenge.data.challengeId },
  }));
  const { visitorChallengeId } = participant.data;
  const added = await client.POST("/visitors/{visitorId}/visitorChallenges/{visitorChallengeId}/points", {
    params: { path: { ...path, visitorChallengeId } }, body: { points: 10 },
  });
  assert.equal(added.response.status, 204);
  const rankings = data(await client.GET("/visitors/{visitorId}/rankings", { params: { path } }));
  const standing = rankings.data[0].topRanking[0];

  const subscription = data(await client.POST("/visitors/{visitorId}/parkings", {
    params: { path }, body: { parkingPartner: "designa" },
  }));
  const card = data(await client.POST("/visitors/{visitorId}/creditCards", {
    params: { path },
    body: {
      firstName: "Ada", lastName: "Martin", year: 2030, month: 11, fingerprint: "f", cardType: "visa",
      firstSixDigits: "424242", lastFourDigits: "4242", paymentMethodToken: "token",
    },
  }));
  const history = data(await client.POST("/visitors/{visitorId}/parkingHistories", {
    params: { path },
    body: {
      parkingId: subscription.data.parkingId, cardId: card.data.cardId, pcCode, currency: "EUR", accessDevice: plate,
      amount: 12, transactionFullAmount: 12.5,
    },
  }));
  assert.equal(history.data.transactionFullAmount, 12.5);
  const summary = data(await client.GET("/visitors/{visitorId}/parkingHistories/summary", {
    params: { path, query: { timezone: "Europe/Paris" } },
  }));
  const ids = data(await client.GET("/visitors/{visitorId}/externalIds", { params: { path } }));
  const analyticsId = ids.data.find((row) => row.externalType === "analytics")!.externalId;
  const erased = data(await client.POST("/visitors/erase", { body: [{ analyticsId }] }));
  const isErased = erased.data.success.length === 1 && erased.data.success[0] === analyticsId;
  console.log(JSON.stringify([standing.position, standing.points, summary.data[0].totalAmount, isErased]));
}

const [url, pcCode, email, plate] = process.argv.slice(2);
main(url, pcCode, email, plate).catch((error) => { console.error(error); process.exit(1); });
