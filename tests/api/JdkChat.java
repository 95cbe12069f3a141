import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;

/** A chat completion, whole and streamed, by JDK's own client as it comes: it offers HTTP/2 with every request. */
public class JdkChat {
    public static void main(String[] arguments) throws Exception {
        HttpClient client = HttpClient.newHttpClient();
        for (boolean stream : new boolean[] {false, true}) {
            String body = "{\"model\": \"tiny\", \"stream\": " + stream
                + ", \"messages\": [{\"role\": \"user\", \"content\": \"Hi\"}]}";
            HttpRequest request = HttpRequest.newBuilder(URI.create(arguments[0] + "/v1/chat/completions"))
                .header("Content-Type", "application/json")
                .POST(HttpRequest.BodyPublishers.ofString(body))
                .build();
            HttpResponse<String> answer = client.send(request, HttpResponse.BodyHandlers.ofString());
            System.out.println(answer.statusCode() + " " + answer.version());
            System.out.println(answer.body());
        }
    }
}
