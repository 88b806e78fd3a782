import java.time.OffsetDateTime;
import java.util.List;
import java.util.UUID;
import org.openapitools.client.ApiClient;
import org.openapitools.client.api.CentersApi;
import org.openapitools.client.api.CheckinsApi;
import org.openapitools.client.api.OptinsApi;
import org.openapitools.client.api.ParkingApi;
import org.openapitools.client.api.PointsApi;
import org.openapitools.client.api.ServicesApi;
import org.openapitools.client.api.VisitorsApi;
import org.openapitools.client.api.VisitsApi;
import org.openapitools.client.model.*;

/** A tour with the client that openapi-generator generates. Arguments: URL, pcCode, email, licence plate. */
public class Tour {
  public static void main(String[] arguments) throws Exception {
    String url = arguments[0], pcCode = arguments[1], email = arguments[2], plate = arguments[3];
    ApiClient client = new ApiClient();
    client.updateBaseUri(url);

    CenterNew center = new CenterNew().label("Les 4 Temps").country(CountryCode.FR).isWestfield(true).pcCode(pcCode);
    new CentersApi(client).centersCreate(center, null, null);
    VisitorNew newVisitor = new VisitorNew().firstName("Ada").lastName("Martin").email(email)
        .gender(VisitorNew.GenderEnum.F).countryCode(CountryCode.FR).acquisitionPcCode(pcCode).timezone(null)
        .optins(List.of());
    VisitorsApi visitors = new VisitorsApi(client);
    UUID visitorId = visitors.visitorsCreate(newVisitor, null, null).getData().getVisitorId();
    ParkingApi parking = new ParkingApi(client);
    parking.vehiclesCreate(visitorId, new VehicleFields().licensePlate(plate), null, null);
    VisitNew visit = new VisitNew().pcCode(pcCode).licensePlate(plate);
    check(new VisitsApi(client).visitsCreate("entry", visit, null, null).getVisitorId().equals(visitorId));

    ServiceNew newService = new ServiceNew().pcCode(pcCode).name("Cloakroom").category("comfort").useRate("free")
        .daysOfUse(List.of(1L, 2L)).colorCode("#336699");
    Long serviceId = new ServicesApi(client).servicesCreate(newService, null, null).getData().getServiceId();
    CheckinNew checkin = new CheckinNew().pcCode(pcCode).serviceId(serviceId).origin(CheckinNew.OriginEnum.PARTNER);
    new CheckinsApi(client).checkinsCreate(visitorId, checkin, null, null);
    OptinNew optin = new OptinNew().optinChannel(OptinNew.OptinChannelEnum.EMAIL)
        .optinType(OptinNew.OptinTypeEnum.LOYALTY).isActive(true);
    check(new OptinsApi(client).optinsCreate(visitorId, optin, null, null).getData().getIsActive());

    PointsApi points = new PointsApi(client);
    List<TranslationNew> texts = List.of(new TranslationNew().localeCode("fr-FR").value("10 000 pas"));
    OffsetDateTime now = OffsetDateTime.now();
    ChallengeNew newChallenge = new ChallengeNew().pcCode(pcCode).genericName("Steps")
        .type(ChallengeNew.TypeEnum.STEP_COUNTER).status(ChallengeNew.StatusEnum.ACTIVE).startDate(now.minusYears(1))
        .endDate(now.plusYears(1)).winnerNumber(1L).displayName(texts).description(texts).rewardDetail(texts);
    Long challengeId = points.challengesCreate(newChallenge, null, null).getData().getChallengeId();
    Long participantId = points
        .visitorChallengesCreate(visitorId, new VisitorChallengeNew().challengeId(challengeId), null, null)
        .getData().getVisitorChallengeId();
    points.visitorChallengesAddPoints(visitorId, participantId, new Points().points(10L), null, null);
    Standing standing = points.rankingsList(visitorId, null, null, null, null, null, null, null, null)
        .getData().get(0).getTopRanking().get(0);

    ParkingNew subscription = new ParkingNew().parkingPartner(ParkingPartner.DESIGNA);
    Long parkingId = parking.parkingsCreate(visitorId, subscription, null, null).getData().getParkingId();
    CardNew newCard = new CardNew().firstName("Ada").lastName("Martin").year(2030L).month(11L).fingerprint("f")
        .cardType(CardNew.CardTypeEnum.VISA).firstSixDigits("424242").lastFourDigits("4242")
        .paymentMethodToken("token");
    Long cardId = parking.creditCardsCreate(visitorId, newCard, null, null).getData().getCardId();
    HistoryNew history = new HistoryNew().parkingId(parkingId).cardId(cardId).pcCode(pcCode)
        .currency(HistoryNew.CurrencyEnum.EUR).accessDevice(plate).amount(12L).transactionFullAmount(12.5);
    check(parking.parkingHistoriesCreate(visitorId, history, null, null).getData().getTransactionFullAmount() == 12.5);
    MonthSummary month = parking
        .parkingHistoriesSummary(visitorId, "Europe/Paris", null, null, null, null, null, null).getData().get(0);

    String analyticsId = visitors.externalIdsList(visitorId, null, null, null, null, null).getData().stream()
        .filter(row -> row.getExternalType() == ExternalId.ExternalTypeEnum.ANALYTICS).findFirst().orElseThrow()
        .getExternalId();
    Erased erased = visitors
        .visitorsEraseByAnalyticsId(List.of(new Erasure().analyticsId(analyticsId)), null, null).getData();
    System.out.printf("[%d, \"%s\", %s, %s]%n", standing.getPosition(), standing.getPoints(), month.getTotalAmount(),
        erased.getSuccess().equals(List.of(analyticsId)));
  }

  private static void check(boolean condition) {
    if (!condition) throw new AssertionError("The service answered something else.");
  }
}
