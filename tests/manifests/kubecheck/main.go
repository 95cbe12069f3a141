// Kubecheck holds manifests against Kubernetes' own Go code, where Python has none.
//
//	kubecheck decode               strict decoding of PodMonitor, PrometheusRule and VerticalPodAutoscaler
//	kubecheck restricted VERSION   Pod Security Standard "restricted" of a Pod
//	kubecheck gjson PATH           whether a condition of KServe's InferenceGraph holds for a body
//
// It reads one JSON document from standard input and writes what is wrong, one line each, to standard output.
// The status is 1 if anything is wrong (gjson: if the condition doesn't hold), 2 if it was called wrongly.
package main

import (
	"fmt"
	"io"
	"os"

	monitoring "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	"github.com/tidwall/gjson"
	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	vpa "k8s.io/autoscaler/vertical-pod-autoscaler/pkg/apis/autoscaling.k8s.io/v1"
	"k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"
)

func main() {
	document, err := io.ReadAll(os.Stdin)
	if err != nil || len(os.Args) < 2 {
		fail("usage: kubecheck decode | restricted VERSION | gjson PATH")
	}
	var problems []string
	switch os.Args[1] {
	case "decode":
		problems = decode(document)
	case "restricted":
		problems = restricted(document, os.Args[2])
	case "gjson":
		if !gjson.GetBytes(document, os.Args[2]).Exists() {
			problems = []string{"the condition does not hold"}
		}
	default:
		fail("unknown command " + os.Args[1])
	}
	for _, problem := range problems {
		fmt.Println(problem)
	}
	if len(problems) > 0 {
		os.Exit(1)
	}
}

func decode(document []byte) []string {
	if _, err := decoded(document); err != nil {
		return []string{err.Error()}
	}
	return nil
}

func decoded(document []byte) (runtime.Object, error) {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{core.AddToScheme, monitoring.AddToScheme, vpa.AddToScheme} {
		utilruntime.Must(add(scheme))
	}
	codecs := serializer.NewCodecFactory(scheme, serializer.EnableStrict)
	object, _, err := codecs.UniversalDeserializer().Decode(document, nil, nil)
	return object, err
}

func restricted(document []byte, version string) []string {
	object, err := decoded(document)
	if err != nil {
		return []string{err.Error()}
	}
	pod, ok := object.(*core.Pod)
	if !ok {
		fail("restricted needs a Pod")
	}
	parsed, err := api.ParseVersion(version)
	if err != nil {
		fail(err.Error())
	}
	evaluator, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
	if err != nil {
		fail(err.Error())
	}
	level := api.LevelVersion{Level: api.LevelRestricted, Version: parsed}
	result := policy.AggregateCheckResults(evaluator.EvaluatePod(level, &pod.ObjectMeta, &pod.Spec))
	if result.Allowed {
		return nil
	}
	return []string{result.ForbiddenDetail()}
}

func fail(message string) {
	fmt.Fprintln(os.Stderr, message)
	os.Exit(2)
}
